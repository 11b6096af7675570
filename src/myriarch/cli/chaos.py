"""`myriarch chaos ACTION TARGET`."""

from __future__ import annotations

import os
import signal
import sys

from myriarch.errors import EXIT_OK, UsageError
from myriarch.run.api import ControllerClient
from myriarch.run.directory import Contact, find_attempt, read_json


def chaos(action: str, target: str, *, run: str | None, factor: float | None) -> int:
    """Inflict a fault on a running fleet. Returns the exit code."""
    attempt = find_attempt(run or "", launched=True)
    if not attempt.contact.exists() or attempt.outcome.exists():
        raise UsageError(f"run `{attempt.run_name}` is not under way", hint="name another with --run")
    if (action, target) == ("resume", "controller"):
        # A stopped controller answers nobody; its process can be woken from here.
        os.kill(read_json(attempt.contact, Contact).pid, signal.SIGCONT)
        done = "resume controller"
    else:
        done = ControllerClient(attempt).chaos(action, target, factor=factor)
    print(done, file=sys.stderr)
    return EXIT_OK
