"""The command as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def myriarch(tmp_path: Path) -> Command:
    """Runs `myriarch ARGUMENTS...` in an empty folder, under a user's warning settings."""

    def run(*arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        return subprocess.run(
            [sys.executable, "-c", "import sys; from myriarch.cli import main; sys.exit(main())", *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )

    return run
