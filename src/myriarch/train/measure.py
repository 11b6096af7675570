"""`python -m myriarch.train.measure --seconds N`: times the devices of this machine.

A process of its own, started by `myriarch doctor --calibrate`: torch takes seconds to import and a crash of a driver
takes its process with it. Lines of `measure_lines` on stdout, the profile last.
"""

from __future__ import annotations

import argparse
import os
import platform
import threading
from pathlib import Path
from typing import Any, Final

import torch

from myriarch.spec.profile import FORMAT, Device, Profile
from myriarch.train.measure_device import (
    host_row,
    host_works,
    launch_works,
    launches,
    memory_row,
    memory_works,
    pair_row,
    pair_works,
    product_works,
)
from myriarch.train.measure_lines import Measured, Progress, say
from myriarch.train.stopwatch import Stopwatch, Work

LONGEST_SHARE: Final = 0.02
"""Of all the time, that one call may take: it is called five times at least."""


def end_with_parent() -> None:
    """When stdin closes, whoever wanted the result has gone."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    end_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--date", required=True)
    options = parser.parse_args()
    with torch.no_grad():
        say(Measured(profile=measure(options.seconds, date=options.date)))


def measure(seconds: float, *, date: str) -> Profile:
    """Time everything in about so many seconds. Devices are those of `torch.accelerator`, else the CPU."""
    device, described = _device()
    watch = Stopwatch(device)
    memory_bytes = described.memory_bytes or 2**32
    products = product_works(watch, memory_bytes)
    streams = memory_works(watch, memory_bytes)
    host, graph = launch_works(watch)
    hosts = host_works(watch)
    pairs = pair_works(watch, described.count)
    few = [host, *([graph] if graph else [])]
    phases: tuple[tuple[str, float, list[Work]], ...] = (
        ("launches", 0.04, few),
        ("memory", 0.25, [work for *_, work in streams]),
        ("host links", 0.08, [work for *_, work in hosts]),
        ("device links", 0.12, [work for *_, work in pairs]),
        ("products", 1.0, [work for _, work in products]),
    )
    left_out: list[str] = []
    left_s = seconds
    for phase, share, works in phases:
        if works:
            # The products are last and take what is left.
            phase_s = left_s if phase == "products" else share * seconds
            _time(watch, phase, works, seconds=phase_s, longest_s=LONGEST_SHARE * seconds)
            left_s -= phase_s
        left_out += _refusals(phase, works)
    return Profile(
        format=FORMAT,
        date=date,
        device=described,
        software=_software(device),
        products=tuple(product.row(work.seconds) for product, work in products if work.seconds),
        memory=tuple(memory_row(operation, size, work.seconds) for operation, size, work in streams if work.seconds),
        launches=launches(host, graph),
        host_links=tuple(host_row(direction, size, work.seconds) for direction, size, work in hosts if work.seconds),
        device_links=tuple(pair_row(source, target, work.seconds) for source, target, work in pairs if work.seconds),
        left_out=tuple(left_out),
        provenance="myriarch doctor --calibrate",
    )


def _refusals(phase: str, works: list[Work]) -> list[str]:
    """What was not timed, by reason: `products: 12, from fp32 8192 x ...: no time was left`."""
    by_reason: dict[str, list[str]] = {}
    for work in works:
        if work.refusal:
            by_reason.setdefault(work.refusal, []).append(work.name)
    return [f"{phase}: {len(names)}, from {names[0]}: {reason}" for reason, names in by_reason.items()]


def _time(watch: Stopwatch, phase: str, works: list[Work], *, seconds: float, longest_s: float) -> None:
    def tick(done: int) -> None:
        say(Progress(phase, done, len(works)))

    watch.rounds(works, seconds=seconds, longest_s=longest_s, tick=tick)
    for work in works:  # the memory goes back before the next phase asks for its own
        work.call = None


def _device() -> tuple[torch.device, Device]:
    if not torch.accelerator.is_available():
        return torch.device("cpu"), _cpu()
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None  # what `is_available` says
    kind = accelerator.type
    module: Any = getattr(torch, kind)
    properties = module.get_device_properties(0) if hasattr(module, "get_device_properties") else None
    name = str(getattr(properties, "name", "") or kind)
    return torch.device(kind, 0), Device(
        name=name,
        kind=kind,
        count=torch.accelerator.device_count(),
        memory_bytes=float(getattr(properties, "total_memory", 0)) or None,
        processors=getattr(properties, "multi_processor_count", None),
    )


def _cpu() -> Device:
    """All cores that torch uses are one device; its memory is the machine's."""
    fields = dict(line.split(":", 1) for line in _lines("/proc/cpuinfo") if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    total = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal:")), "0")
    return Device(
        name=names.get("model name") or platform.processor() or platform.machine(),
        kind="cpu",
        memory_bytes=1024.0 * int(total) or None,
        processors=torch.get_num_threads(),
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _software(device: torch.device) -> dict[str, str]:
    versions = {"torch": str(torch.__version__), "python": platform.python_version(), "system": platform.release()}
    if device.type == "cuda":
        versions |= {"hip": torch.version.hip} if torch.version.hip else {"cuda": str(torch.version.cuda)}
    return versions


if __name__ == "__main__":
    main()
