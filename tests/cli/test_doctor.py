"""`myriarch doctor`: real measurements of the machine that the tests run on, and what is said of lesser ones."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from myriarch.cli import probe_machine, probe_rates, probe_torch
from myriarch.cli.doctor import Diagnosis, _table
from myriarch.cli.finding import Finding
from myriarch.cli.schema import document
from myriarch.errors import EnvironmentFault
from myriarch.run import cgroups

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Usage = namedtuple("Usage", "total used free")  # what shutil.disk_usage gives

PROBES = {
    "python", "torch", "accelerators", "cores", "memory", "shared memory", "limits", "addresses", "clock", "run folder",
    "snapshot rate", "loopback", "cpu quota", "disk",
}  # fmt: skip


def _ours(folder: str, pattern: str) -> set[Path]:
    return set(Path(folder).glob(pattern))


def test_measures_this_machine_and_leaves_nothing(myriarch: Command, tmp_path: Path) -> None:
    done = myriarch("doctor", "--json")
    found = json.loads(done.stdout)
    jsonschema.Draft202012Validator(document("doctor")).validate(found)
    by_name = {finding["name"]: finding for finding in found["findings"]}
    assert set(by_name) == PROBES
    assert done.returncode == (3 if found["verdict"] == "missing" else 0)
    assert by_name["torch"]["verdict"] == "ok", by_name["torch"]
    assert by_name["snapshot rate"]["numbers"]["snapshot_bytes_per_s"] > 0
    assert by_name["loopback"]["numbers"]["round_trip_s"] > 0
    assert all(finding["remedy"] for finding in found["findings"] if finding["verdict"] != "ok")
    assert list(tmp_path.iterdir()) == []
    assert _ours("/dev/shm", "myriarch-doctor-*") == set()
    assert _ours("/sys/fs/cgroup", "**/myriarch-doctor-*") == set()


def _shared_memory_of(free_bytes: int, monkeypatch: pytest.MonkeyPatch) -> Finding:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free_bytes, 0, free_bytes))
    return probe_machine.probe_shared_memory(Path())


@pytest.mark.parametrize(("free_bytes", "verdict"), [(2**32, "ok"), (2**28, "warn"), (2**20, "missing")])
def test_little_shared_memory(free_bytes: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = _shared_memory_of(free_bytes, monkeypatch)
    assert finding.verdict == verdict
    assert ("--shm-size" in finding.remedy) == (verdict != "ok")


def test_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_torch, "_SCRIPT", "import torch_that_is_not_there")
    with probe_torch.Import() as torch_import:
        (finding,) = torch_import.findings()
    assert finding.verdict == "missing"
    assert "No module named 'torch_that_is_not_there'" in finding.value
    assert "myriarch[train]" in finding.remedy


@pytest.mark.parametrize(
    ("version", "backends", "verdict"),
    [("2.13.0+cpu", ["gloo"], "ok"), ("2.7.1", ["gloo"], "missing"), ("2.13.0", ["nccl"], "missing")],
)
def test_unfit_torch(version: str, backends: list[str], verdict: str) -> None:
    torch = probe_torch._Torch(version=version, import_s=2.0, backends=backends, devices=[])
    assert probe_torch._judge(torch)[0].verdict == verdict


def test_accelerators_are_counted() -> None:
    devices = [probe_torch._Device(kind="cuda", name="H100", memory_bytes=80 * 2**30)] * 8
    finding = probe_torch._devices(devices)
    assert finding.value == "8 x H100 (cuda), 80 GiB each"
    assert finding.numbers == {"count": 8, "kind": "cuda", "memory_bytes": 80 * 2**30}


def test_addresses_that_cannot_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoAddress(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(socket, "socket", NoAddress)
    finding = probe_machine.probe_addresses(Path())
    assert (finding.verdict, finding.remedy) == ("missing", "ip addr add 127.0.1.1/8 dev lo")


def test_quota_that_is_not_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[Path, int]:
        raise EnvironmentFault("no CPU quota is permitted here", hint="run as root")

    monkeypatch.setattr(cgroups, "find_base", refuse)
    finding = probe_rates.probe_cpu_quota(Path())
    assert (finding.verdict, finding.remedy) == ("warn", "run as root")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert probe_machine.probe_directory(tmp_path / "no").verdict == "missing"
    assert probe_rates.probe_disk(tmp_path / "no").verdict == "missing"


def test_table_says_verdict_value_and_remedy() -> None:
    findings = (
        Finding(name="python", value="3.11"),
        Finding(name="limits", value="100 open files", verdict="missing", remedy="ulimit -n 1024"),
    )
    assert list(_table(Diagnosis(verdict="missing", findings=findings))) == [
        "ok       python  3.11",
        "missing  limits  100 open files",
        "                 hint: ulimit -n 1024",
        "",
        "`myriarch train` cannot work here before the lines marked `missing` are mended.",
    ]
