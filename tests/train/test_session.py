"""The session as a script sees it, without an agent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from myriarch.errors import EnvironmentFault, IntegrityError, SpecError, UsageError, UserScriptError
from myriarch.event.ids import DeviceId, Step
from myriarch.train.bridge_wire import BridgeError
from myriarch.train.rendezvous import interface_of
from myriarch.train.session import AGENT_FD_ENV, attach
from myriarch.train.timeline import Timeline
from myriarch.train.worker import cause_of, describe

SCRIPT = """
import torch
from conftest import resolved_run
from myriarch.train.session import attach
from myriarch.train.trainer import Trainer
torch.set_num_threads(1)
with attach(alone=resolved_run(steps=3, validate_every_steps=3)) as session:
    session.join()
    Trainer(session).train()
    print("done", *session.slots)
"""


@pytest.mark.processes
def test_a_script_runs_without_an_agent() -> None:
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parents[1] / 'src'}", "OMP_NUM_THREADS": "1"}
    environment.pop(AGENT_FD_ENV, None)
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done 0 1 2 3 4 5\n"


def test_a_process_with_neither_agent_nor_run_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(AGENT_FD_ENV, raising=False)
    with pytest.raises(UsageError, match=f"has no agent \\({AGENT_FD_ENV} is not set\\)"):
        attach()


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("bad"), "user_error"),
        (ZeroDivisionError(), "user_error"),
        (torch.OutOfMemoryError("no memory"), "user_error"),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), "user_error"),
        (SpecError("no corpus"), "user_error"),
        (UsageError("no state"), "user_error"),
        (UserScriptError("raised"), "user_error"),
        (RuntimeError("[/pytorch/third_party/gloo/transport/tcp/pair.cc:547] closed by peer"), "collective_error"),
        (RuntimeError("Connection reset by peer"), "collective_error"),
        (dist.DistBackendError("NCCL error"), "collective_error"),
        (dist.DistStoreError("wait timeout"), "collective_error"),
        (BridgeError("late"), "collective_error"),
        (IntegrityError("block 3"), "collective_error"),
        (EnvironmentFault("no memory"), "collective_error"),
        (ConnectionResetError(), "collective_error"),
        (TimeoutError(), "collective_error"),
    ],
)  # fmt: skip
def test_whose_fault_it_is(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause


def test_errors_are_described_for_people() -> None:
    assert (
        describe(SpecError("no corpus", path="data.source", hint="name one"))
        == "data.source: no corpus\nhint: name one"
    )
    with pytest.raises(ValueError) as caught:
        raise ValueError("in the script")
    assert "test_session.py" in describe(caught.value)


def test_loopback_addresses_are_on_the_loopback_interface() -> None:
    assert interface_of("127.0.3.4") == "lo"
    assert interface_of("203.0.113.77") == ""
    assert interface_of("not an address") == ""


# --- timeline --------------------------------------------------------------------------------------------------------


def leaves(spans: Any) -> list[tuple[str, int | None]]:
    return [(span.leaf, span.step) for span in spans]


def test_time_has_no_gaps_and_spans_are_reported_once() -> None:
    timeline = Timeline(start_ns=1000)
    timeline.device = DeviceId("n/0")
    timeline.enter("comm_init")
    timeline.enter("useful_compute", step=Step(3))
    with timeline.within("evaluation"):
        pass
    first = timeline.take(force=True)
    assert leaves(first) == [
        ("rendezvous", None),
        ("comm_init", None),
        ("useful_compute", 3),
        ("evaluation", 3),
        ("useful_compute", 3),
    ]
    assert first[0].start_ns == 1000
    rest = timeline.take(force=True)
    assert rest[0].start_ns == first[-1].end_ns
    assert timeline.take() == ()


def test_a_span_is_split_afterwards() -> None:
    timeline = Timeline()
    began = timeline.now_ns()
    timeline.split(began + 10, "straggler_wait")
    timeline.enter("useful_compute")
    spans = timeline.take(force=True)
    assert leaves(spans)[:2] == [("straggler_wait", None), ("rendezvous", None)]
    timeline.split(began, "straggler_wait")  # lies before the open span: nothing to split
    assert "straggler_wait" not in dict(leaves(timeline.take(force=True)))


def test_phases_tell_the_way_to_readiness() -> None:
    timeline = Timeline()
    timeline.enter("comm_init")
    timeline.enter("restore")
    phases = timeline.phases()
    assert [phase.leaf for phase in phases] == ["rendezvous", "comm_init", "restore"]
    timeline.enter("useful_compute")
    timeline.form()
    timeline.enter("restore")
    assert [phase.leaf for phase in timeline.phases()][-1] == "restore"
    assert len(timeline.phases()) <= 2
