"""`myriarch doctor --calibrate`: a real measurement of this machine's CPU, and what is said when it cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from myriarch.cli import calibrate
from myriarch.cli.calibrate_children import Children
from myriarch.cli.calibrate_table import table
from myriarch.cli.schema import document
from myriarch.cost.profiled import machine_from
from myriarch.errors import EnvironmentFault
from myriarch.spec.profile import Device, Profile, parse_profile

ROOT = Path(__file__).parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def ignore(_: object) -> None:
    """Progress that nobody watches."""


@pytest.mark.processes
def test_a_profile_of_this_machine(myriarch: Command, tmp_path: Path) -> None:
    done = myriarch("doctor", "--calibrate", "--seconds", "3", "--output", "here.yaml", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    jsonschema.Draft202012Validator(document("profile")).validate(shown)
    profile = parse_profile((tmp_path / "here.yaml").read_text("utf-8"), source="here.yaml")
    assert (profile.device.kind, profile.provenance) == (shown["device"]["kind"], "myriarch doctor --calibrate")
    assert {row.precision for row in profile.products} >= {"fp32"} or profile.device.kind != "cpu"
    assert profile.memory
    assert profile.launches is not None
    found = machine_from(profile, precision="fp32")
    assert found.origin("matmul_flops_per_s").source == "measured"
    assert [path.name for path in tmp_path.iterdir()] == ["here.yaml"]
    assert any("GFLOP/s" in line or "TFLOP/s" in line for line in table(profile))


@pytest.mark.processes
def test_all_reduces_of_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with two devices; here both are its CPU."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    device = Device(name="cpu", kind="cpu", count=2)
    profile = Profile(format="myriarch.profile/1", date="2026-03-01", device=device)
    rows, left_out = calibrate._collectives(profile, 0.2)
    assert left_out == ()
    assert [row.size_bytes for row in rows] == sorted({row.size_bytes for row in rows})
    assert all((row.devices, row.backend) == (2, "gloo") and row.rate_bytes_per_s > 0 for row in rows)


@pytest.mark.processes
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "myriarch.cli", "doctor", "--calibrate", "--seconds", "60", "--output", "p.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert process.stderr.readline().startswith("measuring")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--output", "p.toml"), "does not end in .yaml or .json"),
        (("--output", "no/p.yaml"), "its folder does not exist"),
        (("--output", "folder.yaml"), "is a folder"),
        (("--seconds", "0"), "--seconds 0 is out of range; use 1 to 3600"),
        (("--seconds", "nan"), "out of range"),
    ],
)
def test_refused_before_anything_is_measured(
    arguments: tuple[str, ...], told: str, tmp_path: Path, myriarch: Command
) -> None:
    (tmp_path / "folder.yaml").mkdir()
    start = time.monotonic()
    done = myriarch("doctor", "--calibrate", *arguments)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert time.monotonic() - start < 30


def test_options_that_go_with_it(myriarch: Command) -> None:
    done = myriarch("doctor", "--output", "p.yaml")
    assert (done.returncode, "go with --calibrate; add it" in done.stderr) == (2, True)


def _module(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (folder / "stand_in.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return ["stand_in"]


@pytest.mark.parametrize(
    ("text", "told", "hint"),
    [
        (
            "raise ModuleNotFoundError(\"No module named 'torch'\")",
            "PyTorch, which is not installed",
            "myriarch[train]",
        ),
        ("raise SystemExit('driver is gone')", "driver is gone", "myriarch doctor"),
        ("import time; time.sleep(60)", "not over after 1 s", "idle"),
    ],
)
def test_a_measuring_process_that_fails(
    text: str, told: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Children(limit_s=1.0 if "sleep" in text else 30.0) as children:
        children.start(_module(tmp_path, text, monkeypatch))
        with pytest.raises(EnvironmentFault) as fault:
            children.result(ignore)
    assert told in str(fault.value)
    assert hint in fault.value.hint


def test_what_a_library_prints_is_not_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    text = 'print(\'hello\'); print(\'{"type": "progress", "phase": "a", "done": 0, "of": 1}\')'
    with Children(limit_s=30.0) as children:
        children.start(_module(tmp_path, text, monkeypatch))
        assert children.result(seen.append) is None
    assert len(seen) == 1


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "p.yaml"
    target.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EnvironmentFault, match="cannot be written: No space left on device"):
        calibrate._write_whole(target, "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("p.yaml", "old")]
