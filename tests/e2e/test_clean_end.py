"""Ctrl-C, SIGTERM, SIGKILL and user errors: the end is clean, nothing is left, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from myriarch.event.actions import EndRun
from myriarch.event.events import StepCompleted

pytest.importorskip("torch")

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]


SMALL: dict[str, Any] = {"pools": [{"name": name, "chip": {"id": "cpu-core"}, "nodes": 1} for name in ("fast", "slow")]}
"""Two nodes instead of five: how a run ends does not depend on how many there are, how long it takes to start does."""


def left_of(launched: Any) -> list[str]:
    """Anything of the run in shared memory or in cgroups."""
    from pathlib import Path

    found = [str(path) for path in Path("/dev/shm").glob("myriarch-*/*") if launched.name in path.name]
    found += [str(path) for path in Path("/sys/fs/cgroup").rglob("*myriarch*") if launched.name in path.name]
    return found


def steps_of(launched: Any, index: int = -1) -> list[int]:
    return sorted({event.step for event in launched.events(StepCompleted, index)})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_a_last_snapshot_and_the_same_command_resumes(launch: Any, number: signal.Signals) -> None:
    first = launch(name="stopped", steps=400, fleet=SMALL)
    first.until(lambda: len(steps_of(first)) > 10, "ten steps")
    first.process.send_signal(number)
    code, _, err = first.wait()
    assert code == 130, err
    assert left_of(first) == []
    end = first.actions(EndRun)[-1]
    assert end.outcome == "interrupted"
    stopped_at = steps_of(first)[-1]
    assert end.step == stopped_at, "the last snapshot is of the last step"
    assert sorted(path.name for path in (first.run_folder / "checkpoints").iterdir())[-1] == f"step-{stopped_at:08d}"

    again = launch(name="stopped", steps=400, fleet=SMALL)
    again.until(lambda: again.attempts() == 2 and len(steps_of(again)) > 3, "steps after the resume")
    again.process.send_signal(number)
    assert again.wait()[0] == 130
    assert steps_of(again)[0] == stopped_at + 1, "no step is lost or repeated"


def test_fresh_starts_over(launch: Any) -> None:
    assert launch(name="over", steps=4, fleet=SMALL).wait()[0] == 0
    again = launch(name="over", steps=4, fresh=True, fleet=SMALL)
    assert again.wait()[0] == 0
    assert steps_of(again) == [1, 2, 3, 4]


def test_a_finished_run_says_so(launch: Any) -> None:
    assert launch(name="finished", steps=4, fleet=SMALL).wait()[0] == 0
    again = launch(name="finished", steps=4, fleet=SMALL)
    code, _, err = again.wait()
    assert code == 0
    assert "--fresh" in err


def test_sigkill_of_the_launcher_leaves_nothing(launch: Any) -> None:
    launched = launch(name="orphaned", steps=4000, fleet=SMALL)
    launched.until(lambda: len(steps_of(launched)) > 3, "three steps")
    launched.process.kill()
    launched.process.wait()
    # the fixture asserts that no process outlives it; memory is checked here, when they are gone
    import time

    end = time.monotonic() + 15
    while left_of(launched) and time.monotonic() < end:
        time.sleep(0.1)
    assert left_of(launched) == []


def test_a_user_error_is_reported_with_its_traceback_and_not_restarted(launch: Any) -> None:
    launched = launch(name="wrong", fleet=SMALL, data={"source": "text.txt", "max_bytes": 20})
    code, _, err = launched.wait()
    assert code in (1, 2)
    assert "text.txt" in err
    assert "20" in err


def test_a_missing_corpus_is_a_clear_error(launch: Any) -> None:
    code, _, err = launch(name="missing", data={"source": "no-such-folder"}).wait()
    assert code == 2
    assert "no-such-folder" in err


def test_a_script_that_raises_mid_run_ends_the_run_once(launch: Any) -> None:
    """The learning rate overflows fp32 and the optimizer raises: the user's error, not a fault to recover from."""
    launched = launch(name="raises", fleet=SMALL, optimizer={"learning_rate": 1e39, "warmup_steps": 0})
    code, _, err = launched.wait()
    ends = launched.actions(EndRun)
    assert code == 1, err
    assert len(ends) == 1
    assert ends[0].outcome in ("user_error", "failed")


def test_the_report_adds_up(launch: Any) -> None:
    launched = launch(name="counted", chaos=[{"at_step": 9, "action": "kill", "target": "fast-1"}])
    assert launched.wait()[0] == 0
    done = subprocess.run(
        [sys.executable, "-m", "myriarch.cli", "report", "--json"],
        cwd=launched.folder, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert sum(report["leaves"].values()) == report["capacity_device_ns"]
    assert report["leaves"]["unattributed"] <= 0.02 * report["capacity_device_ns"]
    factors = report["factors"]
    product = factors["availability"] * factors["scheduling"] * factors["fault_handling"] * factors["compute"]
    assert product == pytest.approx(report["effective"], rel=1e-9)
    (incident,) = report["incidents"]
    assert 0 <= incident["detected_s"] <= incident["decided_s"] <= incident["restored_s"] <= incident["first_step_s"]
    assert incident["lost_steps"] <= 3
