"""The outermost layer: overview, lazy imports, exit codes, how errors are said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

from myriarch import __version__
from myriarch.cli import VERBS, overview
from myriarch.cli.app import app
from myriarch.cli.edge import EXIT_BROKEN_PIPE, at_edge
from myriarch.errors import EXIT_FAILED, EXIT_INTERRUPTED, SpecError, UsageError, UserScriptError

Command = Callable[..., "subprocess.CompletedProcess[str]"]

HEAVY = {
    "anyio",
    "cryptography",
    "msgspec",
    "numpy",
    "rich",
    "scipy",
    "starlette",
    "torch",
    "typer",
    "uvicorn",
    "websockets",
    "yaml",
}
"""What the overview must not wait for."""


def test_overview_names_every_verb_that_there_is() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert list(commands) == list(VERBS)
    for verb, line in VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(line)}$", overview(), re.MULTILINE)


def test_help_is_data_and_no_arguments_are_a_wrong_usage(myriarch: Command) -> None:
    asked = myriarch("--help")
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, overview() + "\n", "")
    not_asked = myriarch()
    assert (not_asked.returncode, not_asked.stdout, not_asked.stderr) == (2, "", overview() + "\n")


def _imported_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_overview_imports_nothing_heavy() -> None:
    statement = "from myriarch.cli import main; sys.argv = ['myriarch', '--help']; main()"
    assert _imported_by(statement) & HEAVY == set()


def test_parsing_a_verb_imports_nothing_that_only_its_work_needs() -> None:
    assert _imported_by("import myriarch.cli.app") & HEAVY == {"typer"}


@pytest.mark.parametrize("arguments", [("version",), ("--version",)])
def test_version(myriarch: Command, arguments: tuple[str, ...]) -> None:
    done = myriarch(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"myriarch {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("trian", "run.yaml"), "Did you mean 'train'"),
        (("train", "run.yaml", "--frsh"), "--fresh"),
        (("train",), "Missing argument 'RUN'"),
        (("train", "nowhere.yaml"), "nowhere.yaml"),
        (("schema", "flet"), "did you mean `fleet`?"),
        (("report", "nowhere"), "there is no run"),
        (("chaos", "kill", "fast-1"), "there is no run"),
        (("chaos", "kill"), "Missing argument 'TARGET'"),
    ],
)
def test_wrong_usage_is_explained_on_stderr_and_exits_2(
    myriarch: Command, arguments: tuple[str, ...], said: str
) -> None:
    done = myriarch(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_run_file_gets_a_suggestion(myriarch: Command, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: x\n")
    done = myriarch("train", "rnu.yaml")
    assert done.returncode == 2
    assert "did you mean" in done.stderr


def test_a_terminal_that_knows_only_ascii_gets_no_traceback() -> None:
    code = "import sys; from myriarch.cli import main; sys.argv = ['myriarch', 'schema', 'run']; sys.exit(main())"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()


def test_a_reader_that_leaves_is_no_error() -> None:
    command = [sys.executable, "-c", "import sys; from myriarch.cli import main; sys.exit(main())", "schema", "journal"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == EXIT_BROKEN_PIPE


def _raising(error: BaseException) -> Callable[[], int]:
    def verb() -> int:
        raise error

    return verb


def test_errors_are_said_with_their_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert at_edge(_raising(SpecError("`tp: 16` is too much", source="run.yaml", path="tp", hint="use 8"))) == 2
    assert capsys.readouterr() == ("", "error: run.yaml: tp: `tp: 16` is too much\nhint: use 8\n")
    assert at_edge(_raising(UsageError("no such run"))) == 2
    assert capsys.readouterr() == ("", "error: no such run\n")


def test_a_script_s_own_traceback_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    error = UserScriptError("fast/0 raised ValueError", traceback="Traceback ...\nValueError: x\n")
    assert at_edge(_raising(error)) == EXIT_FAILED
    assert capsys.readouterr().err == "Traceback ...\nValueError: x\nerror: fast/0 raised ValueError\n"


def test_interruption_and_defects(capsys: pytest.CaptureFixture[str]) -> None:
    assert at_edge(_raising(KeyboardInterrupt())) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
    assert at_edge(_raising(ZeroDivisionError("by zero"))) == EXIT_FAILED
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert "error: unexpected ZeroDivisionError: by zero\nhint: this is a defect of Myriarch" in said


def test_results_become_exit_codes() -> None:
    assert at_edge(lambda: None) == 0
    assert at_edge(lambda: 3) == 3
