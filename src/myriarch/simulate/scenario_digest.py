"""What an answer is a function of: the scenario, the contents of the files it reads, and the version of Myriarch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import xxhash

from myriarch import __version__
from myriarch.errors import UsageError
from myriarch.simulate.scenario import Scenario

CHUNK_BYTES: Final = 1 << 20


def digest_of(scenario: Scenario, *, also: object = None) -> str:
    """Equal digests, equal answers. Where the answer is kept and what is noted does not count."""
    asked = msgspec.structs.replace(scenario, output="", note="")
    digest = xxhash.xxh3_128(__version__.encode())
    digest.update(msgspec.json.encode((asked, also), order="deterministic"))
    for path in _files(scenario):
        digest.update(_content(Path(path)))
    return digest.hexdigest()


def _files(scenario: Scenario) -> list[str]:
    named = (
        scenario.workload.trace if scenario.workload is not None else "",
        scenario.faults.log if scenario.faults is not None else "",
        scenario.power.hours if scenario.power is not None else "",
    )
    return [path for path in named if path]


def _content(path: Path) -> bytes:
    digest = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from None
    return digest.digest()
