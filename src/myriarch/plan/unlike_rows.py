"""Published runs over unlike devices: which stages of which pipelines a row says there were, in any of its spellings.

The row format's own is `pipelines`, a list of replicas, each a list of its stages from the first to the last:

    pipelines: [[{chip: RTX-3090, tp: 8, layers: 11}, {chip: Titan-RTX, tp: 8, layers: 13}], ...]

People who compile such rows also write stages with their replicas (`stages: [[[RTX-3090, 8], [RTX-2080, 8]], ...]`,
as Sailor's files do), lists of one value per stage (`chips_per_stage`, `layers_per_stage`, `tp` as a list), or all
kinds in one word (`RTX-3090 + Titan-RTX`: as many as there are stages are taken to be in their order). Those are read
as far as they say which device holds which layers; a row that does not is refused with what is missing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

CHIP_KEYS: Final = ("chip", "gpu", "gpu_type", "device", "device_type", "accelerator", "type", "kind", "name")
TENSOR_KEYS: Final = ("tp", "tmp", "tensor_parallel", "tp_size", "gpus", "devices", "count", "n")
LAYER_KEYS: Final = ("layers", "num_layers", "n_layers", "layer_ids", "layer_count")
REPLICA_KEYS: Final = ("replicas", "pipelines", "workers", "chips", "gpus")
CHIPS_OF_STAGES: Final = (
    "chips_per_stage",
    "chip_per_stage",
    "stage_chips",
    "gpus_per_stage",
    "gpu_per_stage",
    "gpu_types",
    "chips",
    "chip",
    "gpu",
)
LAYERS_OF_STAGES: Final = ("layers_per_stage", "stage_layers", "layer_split", "partition")
TENSORS_OF_STAGES: Final = ("tp_per_stage", "tmp_per_stage", "stage_tp", "tp")
SEVERAL: Final = re.compile(r"\s*(?:\+|&|,|;|\band\b)\s*")
"""Between the kinds that one word names: `A+B`, `A, B and C`."""
COUNTED: Final = re.compile(r"(?P<before>\d+)\s*[x*]\s*(?P<name>\S.*)|(?P<called>.*\S)\s*[:*@]\s*(?P<after>\d+)")
"""`8x RTX-3090`, `RTX-3090:8`."""
ENDS: Final = 2
"""Embedding and head, where a source counts each as a layer."""


class Lacking(Exception):
    """A row cannot be predicted; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedStage:
    """A stage in the words of its row."""

    chip: str
    tp: int
    layers: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Said:
    """What one entry says of one stage of one replica; None: nothing."""

    chip: str | None = None
    tp: int | None = None
    layers: int | None = None

    def over(self, other: _Said) -> _Said:
        """With what `other` says where this says nothing."""
        return _Said(
            chip=self.chip or other.chip,
            tp=self.tp or other.tp,
            layers=other.layers if self.layers is None else self.layers,
        )


def is_unlike(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a run over several kinds of devices, or is written like one."""
    if row.get("hetero") or row.get("pipelines"):
        return True
    return any(isinstance(row.get(key), list | tuple) for key in ("stages", *CHIPS_OF_STAGES))


def named_pipelines(row: Mapping[str, Any], *, layers: int) -> tuple[tuple[NamedStage, ...], ...]:
    """The stages of every replica, front to back. `layers`: of the model. Raises Lacking."""
    try:
        said = _replicas(row) if row.get("pipelines") else _transposed(_by_stage(row), row)
        return tuple(_complete(stages, row, layers, replicas=len(said)) for stages in said)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise Lacking(f"stages of unlike chips are not written in a way that can be read: {error}") from None


def _replicas(row: Mapping[str, Any]) -> list[list[_Said]]:
    """Out of `pipelines`; an entry with `count` or `replicas` stands for so many."""
    found = []
    for entry in row["pipelines"]:
        stages, count = entry, 1
        if isinstance(entry, Mapping):
            stages = entry.get("stages") or [entry]
            count = int(entry.get("count") or entry.get("replicas") or 1) if entry.get("stages") else 1
        elif isinstance(entry, str):
            stages = SEVERAL.split(entry)
        if not isinstance(stages, Sequence) or not stages:
            raise Lacking("a pipeline of `pipelines` has no stages")
        found += [[_entry(stage) for stage in stages]] * count
    return found


def _by_stage(row: Mapping[str, Any]) -> list[list[_Said]]:
    """Out of `stages`, else of lists of chips: the replicas of each stage."""
    if row.get("stages"):
        return [_replicas_of_stage(entry) for entry in row["stages"]]
    key = next((key for key in CHIPS_OF_STAGES if row.get(key)), "")
    names = row.get(key)
    kinds = SEVERAL.split(names) if isinstance(names, str) else list(names or ())
    if len(kinds) == 1 and isinstance(kinds[0], str):
        kinds = SEVERAL.split(kinds[0])
    if not kinds:
        raise Lacking("unlike chips in one run, and the row does not name them: give `pipelines`")
    if len(kinds) == 1 and isinstance(kinds[0], str):
        raise Lacking(f"unlike chips in one run, and the row names only `{kinds[0]}`: give `pipelines`")
    pp, dp = (int(row[key]) if isinstance(row.get(key), int) else None for key in ("pp", "dp"))
    if pp is None:
        pp = next((len(row[key]) for key in LAYERS_OF_STAGES if isinstance(row.get(key), list)), None)
    if len(kinds) == pp or (pp is None and ("stage" in key or any(isinstance(each, list) for each in kinds))):
        return [_replicas_of_stage(each) for each in kinds]
    if pp == 1 and len(kinds) == dp:
        return [[_entry(each) for each in kinds]]
    shown = ", ".join(str(each) for each in kinds)
    raise Lacking(f"unlike chips, and the row does not say which of {shown} holds which stage: give `pipelines`")


def _replicas_of_stage(entry: Any) -> list[_Said]:
    if isinstance(entry, Mapping):
        shared = _entry(entry)
        inner = next((entry[key] for key in REPLICA_KEYS if isinstance(entry.get(key), list)), None)
        named = next((entry[key] for key in CHIP_KEYS if isinstance(entry.get(key), list)), None)
        if inner is None and named is None:
            return [shared]
        return [_entry(each).over(shared) for each in (inner or named or ())]
    if isinstance(entry, str) or _is_pair(entry):
        return [_entry(entry)]
    return [_entry(each) for each in entry]


def _is_pair(entry: Any) -> bool:
    """`[RTX-3090, 8]` or `[RTX-3090, 8, 11]`: one stage, not several."""
    whole = isinstance(entry, list | tuple) and 1 < len(entry) <= len(("chip", "tp", "layers"))
    return whole and isinstance(entry[0], str) and all(isinstance(value, int) for value in entry[1:])


def _entry(entry: Any) -> _Said:
    if isinstance(entry, Mapping):
        chip = next((entry[key] for key in CHIP_KEYS if isinstance(entry.get(key), str)), None)
        tp = next((entry[key] for key in TENSOR_KEYS if isinstance(entry.get(key), int)), None)
        held = next((entry[key] for key in LAYER_KEYS if entry.get(key) is not None), None)
        return _Said(tp=tp, layers=_count(held)).over(_counted(chip) if chip else _Said())
    if isinstance(entry, str):
        return _counted(entry)
    if _is_pair(entry):
        return _Said(tp=int(entry[1]), layers=int(entry[2]) if len(entry) > ENDS else None).over(_counted(entry[0]))
    if isinstance(entry, list | tuple) and len(entry) == 1:
        return _entry(entry[0])
    raise Lacking(f"`{entry}` is not a stage: give chip, tp and layers")


def _counted(words: str) -> _Said:
    found = COUNTED.fullmatch(words.strip())
    if found is None:
        return _Said(chip=words.strip())
    return _Said(chip=found["name"] or found["called"], tp=int(found["before"] or found["after"]))


def _count(held: Any) -> int | None:
    """Layers as a number, or as the list of their places."""
    return None if held is None else len(held) if isinstance(held, list | tuple) else int(held)


def _transposed(stages: list[list[_Said]], row: Mapping[str, Any]) -> list[list[_Said]]:
    """Replicas of stages to stages of replicas; a stage with one entry is the same in all replicas."""
    dp = row.get("dp") if isinstance(row.get("dp"), int) else None
    count = max(int(dp or 1), *(len(each) for each in stages))
    wrong = next((len(each) for each in stages if len(each) not in (1, count)), None)
    if wrong is not None:
        raise Lacking(f"a stage of {wrong} replicas beside {count} pipelines")
    return [[each[at if len(each) > 1 else 0] for each in stages] for at in range(count)]


def _complete(stages: list[_Said], row: Mapping[str, Any], layers: int, *, replicas: int) -> tuple[NamedStage, ...]:
    """With what the row says of all stages where an entry says nothing."""
    pp = len(stages)
    shared = [_Said(tp=_of_stages(row, TENSORS_OF_STAGES, at, pp)) for at in range(pp)]
    found = [own.over(common) for own, common in zip(stages, shared, strict=True)]
    chips = [each.chip or (row["chip"] if isinstance(row.get("chip"), str) else None) for each in found]
    if None in chips:
        raise Lacking("a stage without a chip")
    even, rest = divmod(int(row.get("gpus") or 0), pp * replicas)
    if any(each.tp is None for each in found) and (rest or not even):
        raise Lacking("a stage without its number of devices: give `tp`")
    if any(each.tp is not None and each.tp < 1 for each in found):
        raise Lacking("a stage of no device: `tp` is at least 1")
    held = _layers([each.layers for each in found], row, layers)
    return tuple(
        NamedStage(chip=str(chip), tp=each.tp or even, layers=count)
        for chip, each, count in zip(chips, found, held, strict=True)
    )


def _of_stages(row: Mapping[str, Any], keys: Sequence[str], at: int, pp: int) -> int | None:
    value = next((row[key] for key in keys if row.get(key) is not None), None)
    if isinstance(value, list | tuple):
        if len(value) != pp:
            raise Lacking(f"{len(value)} values of `tp` for {pp} stages")
        value = value[at]
        value = value[0] if isinstance(value, list | tuple) and len(set(value)) == 1 else value
    return None if value is None else int(value)


def _layers(own: list[int | None], row: Mapping[str, Any], layers: int) -> list[int]:
    """Of each stage; where nobody says, as even as they go, more in front. Ends that are counted as layers are not."""
    known = [each for each in own if each is not None]
    if len(known) < len(own):
        listed = next((row[key] for key in LAYERS_OF_STAGES if isinstance(row.get(key), list | tuple)), None)
        if listed is None and isinstance(row.get("layers"), list | tuple):
            listed = row["layers"]
        counts = [_count(each) for each in listed] if listed is not None else []
        known = [each for each in counts if each is not None]
        if listed is None:
            known = [layers // len(own) + (at < layers % len(own)) for at in range(len(own))]
    if len(known) != len(own):
        raise Lacking(f"{len(known)} numbers of layers for {len(own)} stages")
    if sum(known) == layers + ENDS:
        known = [*known]
        known[0] -= 1
        known[-1] -= 1
    if sum(known) != layers or min(known) < 0:
        raise Lacking(f"stages of {sum(known)} layers do not hold the model's {layers}")
    return known
