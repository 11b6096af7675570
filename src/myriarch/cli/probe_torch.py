"""Which PyTorch there is, and what it sees. Imported in another process: it takes seconds and stays for ever."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType
from typing import Final, Self

import msgspec

from myriarch.cli.finding import Finding
from myriarch.units import format_bytes

IMPORT_LIMIT_S: Final = 60.0
"""`import torch` takes 2 to 3 s from a warm page cache and has been seen to take 20 s from a cold network disk."""

OLDEST: Final = (2, 8)
"""As in pyproject.toml: the first release with every part of FSDP2 and DCP that `train` uses."""

_SCRIPT: Final = """
import json, time
start = time.perf_counter()
import torch, torch.distributed
seconds = time.perf_counter() - start
devices = []
if torch.accelerator.is_available():
    kind = torch.accelerator.current_accelerator().type
    module = getattr(torch, kind)
    for index in range(torch.accelerator.device_count()):
        properties = module.get_device_properties(index) if hasattr(module, "get_device_properties") else None
        devices.append({
            "kind": kind,
            "name": getattr(properties, "name", kind),
            "memory_bytes": int(getattr(properties, "total_memory", 0)),
        })
distributed = torch.distributed
available = distributed.is_available()
names = ("gloo", "nccl", "mpi", "ucc", "xccl")
backends = [n for n in names if available and getattr(distributed, f"is_{n}_available", lambda: False)()]
print(json.dumps({"version": str(torch.__version__), "import_s": seconds, "backends": backends, "devices": devices}))
"""


class _Device(msgspec.Struct):
    kind: str
    name: str
    memory_bytes: int


class _Torch(msgspec.Struct):
    version: str
    import_s: float
    backends: list[str]
    devices: list[_Device]


class Import:
    """The process that imports torch: started on entry, ended on exit at the latest."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def findings(self) -> tuple[Finding, ...]:
        """Wait for its answer."""
        try:
            answer, complaint = self._process.communicate(timeout=IMPORT_LIMIT_S)
        except subprocess.TimeoutExpired:
            return (_missing(f"`import torch` takes more than {IMPORT_LIMIT_S:.0f} s", "look at the disk it lies on"),)
        if self._process.returncode != 0:
            last = complaint.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            return (_missing(f"`import torch` fails: {last[0]}", "pip install 'myriarch[train]'"),)
        return tuple(_judge(msgspec.json.decode(answer.splitlines()[-1], type=_Torch)))


def _missing(value: str, remedy: str) -> Finding:
    return Finding(name="torch", value=value, verdict="missing", remedy=remedy)


def _judge(torch: _Torch) -> list[Finding]:
    backends = ", ".join(torch.backends) or "none"
    finding = Finding(
        name="torch",
        value=f"{torch.version}, imported in {torch.import_s:.1f} s, collectives: {backends}",
        numbers={"version": torch.version, "import_s": torch.import_s, "backends": ",".join(torch.backends)},
    )
    if _release(torch.version) < OLDEST:
        remedy = f"pip install 'torch>={OLDEST[0]}.{OLDEST[1]}'"
        finding = msgspec.structs.replace(finding, verdict="missing", remedy=remedy)
    elif "gloo" not in torch.backends:
        remedy = "install a build of PyTorch with torch.distributed and gloo"
        finding = msgspec.structs.replace(finding, verdict="missing", remedy=remedy)
    return [finding, _devices(torch.devices)]


def _release(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` is (2, 13)."""
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())


def _devices(devices: list[_Device]) -> Finding:
    if not devices:
        return Finding(name="accelerators", value="none: devices are cores of this machine", numbers={"count": 0})
    first = devices[0]
    same = all(device.name == first.name for device in devices)
    names = f"{len(devices)} x {first.name}" if same else ", ".join(device.name for device in devices)
    return Finding(
        name="accelerators",
        value=f"{names} ({first.kind}), {format_bytes(first.memory_bytes)} each" if same else f"{names} ({first.kind})",
        numbers={"count": len(devices), "kind": first.kind, "memory_bytes": first.memory_bytes},
    )
