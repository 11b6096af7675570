"""Which chip of the catalogue a driver's name means: `NVIDIA H100 80GB HBM3` is `h100-sxm`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Final

from myriarch.spec.fleet import Chip

MEMORY_TOLERANCE: Final = 0.12
"""Of the data sheet's, by which the memory that a driver shows may differ: GB for GiB is 7 %, error correction 6 %."""


def recognised(name: str, memory_bytes: float | None, *, chips: Mapping[str, Chip]) -> str:
    """The id of the only chip that fits, or nothing: a wrong one would lend it numbers of another."""
    words = re.findall(r"[a-z]+|[0-9]+[a-z0-9]*", re.sub(r"[^a-z0-9]+", " ", name.casefold()))
    spelt = set(re.findall(r"[a-z0-9]+", name.casefold())) | {a + b for a, b in itertools.pairwise(words)}
    families = [chip for chip in chips.values() if _family(chip.id) <= spelt]
    longest = max((len(" ".join(_family(chip.id))) for chip in families), default=0)
    fitting = [chip for chip in families if len(" ".join(_family(chip.id))) == longest]
    fitting = [chip for chip in fitting if _holds(chip, memory_bytes)]
    fitting = [chip for chip in fitting if ("pcie" in chip.id) == ("pcie" in spelt)]
    return fitting[0].id if len(fitting) == 1 else ""


def _family(chip_id: str) -> set[str]:
    """The words of an id that a driver's name has too: `rtx`, `4090`; not how it is mounted, nor its memory."""
    first, *rest = chip_id.split("-")
    told = {word for word in rest if len(word) > 2 and not re.fullmatch(r"sxm\d?|pcie|\d{2,3}", word)}
    return {first, *told}


def _holds(chip: Chip, memory_bytes: float | None) -> bool:
    if chip.memory_bytes is None or memory_bytes is None:
        return True
    return abs(memory_bytes / chip.memory_bytes - 1.0) <= MEMORY_TOLERANCE
