"""`--fix NAME=VALUE[,VALUE]`: what a user has decided of a split; the search decides the rest.

tp pp dp cp ep expert_tp micro_batch virtual shard      whole numbers from 1
zero_stage                                              0 to 3
recompute                                               none, selective, full, or a number of layers of a stage
schedule                                                1f1b, interleaved, zero-bubble
sequence_parallel                                       on, off
offload                                                 none, optimizer, activations, both
narrow_share                                            of the layers' products, 0 to 1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from myriarch.errors import UsageError
from myriarch.plan.space import ALL_LAYERS, SELECTIVE, Space
from myriarch.spec.problems import did_you_mean, listed

NUMBERS: Final = ("tp", "pp", "dp", "cp", "ep", "expert_tp", "micro_batch", "virtual", "shard")
RECOMPUTE: Final = {"none": 0, "selective": SELECTIVE, "full": ALL_LAYERS}
SCHEDULES: Final = ("1f1b", "interleaved", "zero-bubble")
SWITCH: Final = {"on": True, "off": False}
OFFLOAD: Final = {"none": (0.0, 0.0), "optimizer": (1.0, 0.0), "activations": (0.0, 1.0), "both": (1.0, 1.0)}
MOST_CHUNKS: Final = 64
"""Interleaved: chunks of a stage that are tried; those that do not divide its layers fall away."""


def space_of(fixed: Sequence[str]) -> Space:
    """The space with what `--fix` says. Raises UsageError that names the option, the value and the remedy."""
    values: dict[str, Any] = {}
    seen: set[str] = set()
    for text in fixed:
        name, equals, given = text.partition("=")
        name = name.strip().replace("-", "_")
        if name not in READERS:
            remedy = did_you_mean(name, READERS) or f" use one of {listed(READERS)}"
            raise UsageError(f"--fix: `{name}` is nothing of a split that can be fixed;{remedy}")
        words = [word.strip() for word in given.split(",") if word.strip()]
        if not equals or not words:
            raise UsageError(f"--fix: `{text}` says no value", hint=f"write {name}={EXAMPLES.get(name, '8')}")
        if name in seen:
            raise UsageError(f"--fix: `{name}` is fixed twice", hint=f"write {name}=VALUE,VALUE to allow several")
        seen.add(name)
        for field, value in READERS[name](name, words).items():
            if values.setdefault(field, value) != value:
                raise UsageError(f"--fix: `schedule` and `virtual` contradict each other: {', '.join(fixed)}")
    return msgspec.convert(values, Space)


def _whole(name: str, word: str, *, least: int, most: int | None = None) -> int:
    try:
        value = int(word)
    except ValueError:
        raise UsageError(f"--fix: `{name}={word}` is no whole number", hint=f"write {name}=8 or {name}=4,8") from None
    if value < least or (most is not None and value > most):
        limits = f"from {least}" + (f" to {most}" if most is not None else " up")
        raise UsageError(f"--fix: `{name}={word}`: {name} is a whole number {limits}")
    return value


def _numbers(name: str, words: Sequence[str]) -> dict[str, Any]:
    return {name: tuple(_whole(name, word, least=1) for word in words)}


def _stages(name: str, words: Sequence[str]) -> dict[str, Any]:
    return {name: tuple(_whole(name, word, least=0, most=3) for word in words)}


def _recompute(name: str, words: Sequence[str]) -> dict[str, Any]:
    known = [RECOMPUTE[word] if word in RECOMPUTE else _layers(word) for word in words]
    return {"recomputed_layers": tuple(known)}


def _layers(word: str) -> int:
    if not word.isdigit():
        raise UsageError(f"--fix: `recompute={word}` is unknown;{did_you_mean(word, RECOMPUTE)}",
                         hint="use none, selective, full, or a number of layers of a stage")  # fmt: skip
    return int(word)


def _schedule(name: str, words: Sequence[str]) -> dict[str, Any]:
    for word in words:
        _known(name, word, SCHEDULES)
    plain, chunks = {"1f1b", "zero-bubble"} & set(words), range(2, MOST_CHUNKS + 1)
    virtual = ((1,) if plain else ()) + (tuple(chunks) if "interleaved" in words else ())
    bubbles = tuple(value for word, value in (("1f1b", False), ("zero-bubble", True)) if word in words)
    return {"virtual": virtual, "zero_bubble": bubbles or (False,)}


def _switch(name: str, words: Sequence[str]) -> dict[str, Any]:
    return {name: tuple(SWITCH[_known(name, word, SWITCH)] for word in words)}


def _offload(name: str, words: Sequence[str]) -> dict[str, Any]:
    chosen = [OFFLOAD[_known(name, word, OFFLOAD)] for word in words]
    optimizer, activations = (tuple(sorted(set(column))) for column in zip(*chosen, strict=True))
    return {"offload_optimizer": optimizer, "offload_activations": activations}


def _share(name: str, words: Sequence[str]) -> dict[str, Any]:
    try:
        (value,) = (float(word) for word in words)
    except ValueError:
        raise UsageError(f"--fix: `{name}={','.join(words)}` is not one number", hint=f"write {name}=0.9") from None
    if not 0 <= value <= 1:
        raise UsageError(f"--fix: `{name}={value:g}` is no share", hint="a share is between 0 and 1")
    return {name: value}


def _known(name: str, word: str, known: Any) -> str:
    if word not in known:
        remedy = did_you_mean(word, known) or f" use one of {listed(known)}"
        raise UsageError(f"--fix: `{name}={word}` is unknown;{remedy}")
    return word


READERS: Final[dict[str, Callable[[str, Sequence[str]], dict[str, Any]]]] = {
    **dict.fromkeys(NUMBERS, _numbers),
    "zero_stage": _stages,
    "recompute": _recompute,
    "schedule": _schedule,
    "sequence_parallel": _switch,
    "offload": _offload,
    "narrow_share": _share,
}
EXAMPLES: Final = {
    "recompute": "selective", "schedule": "interleaved", "sequence_parallel": "on", "offload": "optimizer",
    "narrow_share": "0.9", "zero_stage": "1",
}  # fmt: skip
