"""The same run gives the same journal, in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("simulate_conftest", sys.argv[1])
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)
from myriarch.event.journal import digest
from myriarch.simulate import Fault, simulate
faults = [
    Fault(action="kill", target="fast-1", at_step=7), Fault(action="kill", target="slow-0", at_step=13),
    Fault(action="return", target="slow-0", at_step=17),
    Fault(action="kill", target="controller", at_step=20, duration_s=0.2),
]
simulation = simulate(made.two_pools(devices=2), faults=faults, timing=made.TIMING, check=True)
print(digest(simulation.records), simulation.digest, len(simulation.spans))
"""


def test_hash_seeds_change_nothing() -> None:
    conftest = Path(__file__).parent / "conftest.py"
    seen = set()
    for seed in ("0", "1", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(conftest)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        seen.add(done.stdout)
    assert len(seen) == 1
