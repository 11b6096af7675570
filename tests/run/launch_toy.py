"""`python launch_toy.py <resolved run, JSON>`: the launcher with the toy's zygote; prints how the launch ended.

`TOY_ZYGOTE`: Python code to run instead of the toy's zygote.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from myriarch.cli.train import EXIT_OF_OUTCOME
from myriarch.errors import MyriarchError
from myriarch.run.launcher import run_training
from myriarch.spec.run import ResolvedRun

FAKE_ZYGOTE = str(Path(__file__).with_name("fake_zygote.py"))


def main() -> int:
    resolved = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=ResolvedRun)
    zygote = ("-c", os.environ["TOY_ZYGOTE"]) if "TOY_ZYGOTE" in os.environ else (FAKE_ZYGOTE,)
    try:
        ended = run_training(resolved, fresh="--fresh" in sys.argv, zygote=zygote)
    except MyriarchError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n{error.hint}\n")
        return error.exit_code
    sys.stdout.write(msgspec.json.encode(ended.outcome).decode())
    sys.stderr.write(f"{ended.outcome.outcome}: {ended.outcome.detail}\n")
    return EXIT_OF_OUTCOME[ended.outcome.outcome]


if __name__ == "__main__":
    sys.exit(main())
