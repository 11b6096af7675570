"""`myriarch doctor --calibrate`: times this machine's devices and writes a profile.

torch runs in processes of its own (`calibrate_children`). Progress goes to stderr, the tables to stdout. The profile
appears whole, under its name, or not at all.
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

from myriarch.cli.calibrate_children import Children
from myriarch.cli.calibrate_power import drawn_w, power_limit_w
from myriarch.cli.calibrate_table import table
from myriarch.errors import EXIT_OK, EnvironmentFault, UsageError
from myriarch.spec.catalogue import catalogue
from myriarch.spec.profile import CollectiveRate, Device, Profile, parse_profile
from myriarch.spec.profile_text import profile_text
from myriarch.spec.recognise import recognised
from myriarch.train.measure_lines import Measured, Progress, Reduced

SECONDS: Final = 30.0
SECONDS_LEAST: Final = 1.0
SECONDS_MOST: Final = 3600.0
IMPORT_LIMIT_S: Final = 60.0
"""As for the doctor's other probe: torch has been seen to take 20 s from a cold network disk."""
OVERRUN: Final = 4.0
"""What was begun is ended, also where others keep the machine busy: so many times the time given is the limit."""
COLLECTIVES_SHARE: Final = 0.2
"""Of the time, where there are devices to reduce over."""
SUFFIXES: Final[dict[str, Literal["yaml", "json"]]] = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}


def calibrate(*, output: str, seconds: float, json_output: bool) -> int:
    """Measure, print the tables (or the profile as JSON), and write `output` if it is named."""
    if not SECONDS_LEAST <= seconds <= SECONDS_MOST:
        raise UsageError(f"--seconds {seconds:g} is out of range; use {SECONDS_LEAST:g} to {SECONDS_MOST:g}")
    target = _target(output) if output else None
    profile = measured(seconds)
    if target is not None:
        _write_whole(target, profile_text(profile, format=SUFFIXES[target.suffix.lower()]))
        print(f"wrote {target}", file=sys.stderr)
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(profile), indent=2).decode())
    else:
        print("\n".join(table(profile)))
    return EXIT_OK


def measured(seconds: float) -> Profile:
    """The profile of this machine's devices, in about so many seconds. Raises EnvironmentFault when there is none."""
    date = datetime.now(UTC).date().isoformat()
    drawn: list[float] = []

    def watch(progress: Progress) -> None:
        _show(progress)
        if progress.phase == "products" and progress.done % 8 == 4:
            drawn.extend(drawn_w())

    arguments = ["myriarch.train.measure", "--seconds", str(seconds), "--date", date]
    with Children(limit_s=IMPORT_LIMIT_S + OVERRUN * seconds) as children:
        children.start(arguments)
        line = children.result(watch)
    if not isinstance(line, Measured):
        raise EnvironmentFault("the measuring process said nothing that could be read", hint="see `myriarch doctor`")
    profile = line.profile
    rows, left_out = _collectives(profile, COLLECTIVES_SHARE * seconds)
    _end_line()
    device = _completed(profile.device, max(drawn, default=None))
    complete = msgspec.structs.replace(
        profile, device=device, collectives=rows, left_out=(*profile.left_out, *left_out)
    )
    # Through the reader's own checks: what is written can be read.
    return parse_profile(profile_text(complete, format="json"), format="json", source="this machine's profile")


def _completed(device: Device, drawn: float | None) -> Device:
    """With the catalogue's name for it and what the board's tool says of its power."""
    return msgspec.structs.replace(
        device,
        chip=recognised(device.name, device.memory_bytes, chips=catalogue()),
        power_w=power_limit_w() if device.kind == "cuda" else None,
        power_drawn_w=drawn if device.kind == "cuda" else None,
    )


def _collectives(profile: Profile, seconds: float) -> tuple[tuple[CollectiveRate, ...], tuple[str, ...]]:
    """All-reduces over all devices of the machine, one process each. A failure costs these rows, not the profile."""
    count, kind = profile.device.count, profile.device.kind
    if count < 2:
        return (), ()
    with tempfile.TemporaryDirectory(prefix="myriarch-doctor-") as folder:
        try:
            with Children(limit_s=IMPORT_LIMIT_S + OVERRUN * seconds) as children:
                for rank in range(count):
                    children.start(
                        [
                            "myriarch.train.measure_collectives",
                            *("--rank", str(rank), "--world", str(count), "--meet", f"{folder}/meet"),
                            *("--kind", kind, "--seconds", str(seconds)),
                        ]
                    )
                line = children.result(_show)
        except EnvironmentFault as fault:
            return (), (f"collectives: {fault}",)
    return (line.rows, ()) if isinstance(line, Reduced) else ((), ("collectives: no result",))


def _target(output: str) -> Path:
    """Where to write, looked at before anything is measured. Raises UsageError."""
    target = Path(output)
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--output `{output}` does not end in .yaml or .json, which say how to write it; rename it")
    if target.is_dir():
        raise UsageError(f"--output `{output}` is a folder; name a file in it")
    if not target.parent.is_dir():
        raise UsageError(f"--output `{output}`: its folder does not exist; make it, or name another")
    if not os.access(target.parent, os.W_OK):
        raise UsageError(f"--output `{output}`: its folder is not writable; name another, or change its permissions")
    return target


def _write_whole(target: Path, text: str) -> None:
    """A reader sees the old file or the new one, whatever happens in between."""
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise EnvironmentFault(
            f"`{target}` cannot be written: {error.strerror}", hint="name another --output"
        ) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp's 0600 is for secrets
        os.replace(name, target)
    except BaseException as error:
        os.unlink(name)
        if isinstance(error, OSError):
            hint = "free some space, or name another --output"
            raise EnvironmentFault(f"`{target}` cannot be written: {error.strerror}", hint=hint) from None
        raise


def _show(progress: Progress) -> None:
    """On a terminal one line that changes; elsewhere a line for each phase."""
    if sys.stderr.isatty():
        print(f"\r\033[K{progress.phase}: {progress.done + 1} of {progress.of}", end="", file=sys.stderr, flush=True)
    elif progress.done == 0:
        print(f"measuring {progress.phase}", file=sys.stderr, flush=True)


def _end_line() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
