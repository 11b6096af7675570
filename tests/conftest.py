"""What every test shares: how hard Hypothesis tries, and what may run beside what.

    ci     the same examples every time: a red run is red again. `make test` and continuous integration take it.
    dev    new examples every time. What plain `pytest` takes.
    deep   many more of them, for a night: HYPOTHESIS_PROFILE=deep pytest

No profile has a deadline: a shared machine is slow at times, and that is no defect.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from myriarch.errors import IntegrityError
from myriarch.event.journal import Record

settings.register_profile(
    "ci", derandomize=True, database=None, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dev", deadline=None)
settings.register_profile("deep", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


PROCESSES = frozenset({"e2e", "run", "train"})
"""Folders of tests that start agents and workers."""


class TwoAtATime(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Each file is run by one of pytest-xdist's workers, so that what its fixtures computed is computed once; all that
    start real processes by the same one, one after another."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "processes" if PROCESSES.intersection(file.split("/")) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> TwoAtATime:
    return TwoAtATime(config, log)


TOLD = (
    "StopRequested", "FaultInjected", "NodeJoined", "NodeDisconnected", "NodeExited", "NodeSilent", "WorkerStalled",
    "WorkerExited", "FetchFailed", "DrainFailed", "FenceNode", "EndRun", "Decide", "Warn", "HoldWorkers",
)  # fmt: skip
"""Events and actions of a journal that say what befell a run."""


@pytest.fixture
def tell() -> Callable[[Callable[[], Iterable[Record]]], None]:
    """Prints what befell a run, as its journal has it. pytest shows it with a failure, when the run's files are gone
    from the machine."""

    def told(records: Callable[[], Iterable[Record]]) -> None:
        with contextlib.suppress(IntegrityError):  # a test may have damaged it
            for record in records():
                entry = record.event or record.action
                if type(entry).__name__ in TOLD:
                    print(f"{record.at_ns / 1e9:.3f} {entry!r:.1200}")

    return told
