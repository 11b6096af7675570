# Myriarch. `make demo` is the place to start; it needs Python 3.11 or newer and nothing installed beforehand.
#
#   PYTHON=python3.12          which Python makes the virtual environment
#   TORCH=2.11.0               another PyTorch than constraints.txt names
#   VENV=.venv                 where the virtual environment lies
#   PYTEST_ARGS="-k ledger"    which tests
#   JOBS=2                     how many tests at a time

PYTHON ?= python3
VENV ?= .venv
TORCH ?=
PYTEST_ARGS ?=
JOBS ?= 2
BIN := $(VENV)/bin
# Named after what was asked for, so that another TORCH installs again.
INSTALLED := $(VENV)/.installed$(if $(TORCH),-torch-$(TORCH))

export HYPOTHESIS_PROFILE ?= ci
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One thread per process: the fleet brings its own parallelism.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check format bench install clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: install  ## Train on two unlike pools, lose a node, recover, account for every device-second
	$(BIN)/myriarch train examples/two-pools/run.yaml --fresh

test: check  ## Checks and tests
	$(BIN)/python -m pytest --numprocesses $(JOBS) $(PYTEST_ARGS)

check: install  ## Lint, format, types, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## Sort imports, format
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format

bench: install  ## Benchmarks: recovery times, aggregation of unlike pools
	$(BIN)/python benchmarks/recovery.py
	$(BIN)/python benchmarks/aggregate.py

install: $(INSTALLED)  ## Only set up .venv

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Setting up $(VENV): a few minutes, once." >&2
	@rm -f $(VENV)/.installed*
	$(PYTHON) -m venv $(VENV)
	sed '$(if $(TORCH),s/^torch==.*/torch==$(TORCH)/)' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[train,dev]'
	@touch $@

clean:  ## Remove what make and the tools made here (runs/ stays)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
