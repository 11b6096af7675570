"""Why one plan and not another: what they do differently, and what that costs."""

from __future__ import annotations

import dataclasses
from typing import Final

from myriarch.cost.split import Split
from myriarch.cost.step import StepTime
from myriarch.event.base import Value

AXES: Final[dict[str, str]] = {
    "tp": "tp",
    "cp": "cp",
    "pp": "pp",
    "dp": "dp",
    "ep": "ep",
    "expert_tp": "expert tp",
    "virtual": "virtual",
    "zero_bubble": "zero-bubble",
    "sequence_parallel": "sequence parallel",
    "zero_stage": "ZeRO",
    "shard": "shard group",
    "micro_batch": "micro-batch",
    "recompute": "recomputed layers",
    "selective": "selective recomputation",
    "offload_optimizer": "offloaded optimizer",
    "offload_activations": "offloaded activations",
    "narrow_bytes": "bytes of a narrow value",
}
"""Fields of a split that a search chooses, and what they are called."""
SHOWN: Final = 0.001
"""Share of a step below which a part's difference is not worth a word."""
WORDS: Final = 4
"""Parts that a sentence names at most."""


class Difference(Value, frozen=True, kw_only=True):
    """How another plan differs from one."""

    axes: dict[str, tuple[float, float]]
    """Field of the split: its value here, and there."""
    parts_s: dict[str, float]
    """Part of the step: seconds there less seconds here. They sum to `step_s`."""
    step_s: float
    """Seconds that the other's step takes more."""
    share: float
    """The same, of this one's step."""
    text: str
    """`tp 8 -> 4, dp 16 -> 32: +2.1 % a step: bubble +3.0 %, tp -0.9 %`."""


def difference(here: tuple[Split, StepTime], there: tuple[Split, StepTime]) -> Difference:
    """What `there` does differently, and what of the step takes longer or less long for it."""
    (split, step), (other, its) = here, there
    axes = {
        name: (float(getattr(split, name)), float(getattr(other, name)))
        for name in AXES
        if float(getattr(split, name)) != float(getattr(other, name))
    }
    parts = {
        field.name: float(getattr(its, field.name)) - float(getattr(step, field.name))
        for field in dataclasses.fields(StepTime)
    }
    total = float(step.total_s)
    more = float(its.total_s) - total
    return Difference(
        axes=axes, parts_s=parts, step_s=more, share=more / total, text=_text(axes, parts, more / total, total)
    )


def _text(axes: dict[str, tuple[float, float]], parts: dict[str, float], share: float, total_s: float) -> str:
    changed = ", ".join(f"{AXES[name]} {before:.3g} -> {after:.3g}" for name, (before, after) in axes.items())
    ranked = sorted(parts.items(), key=lambda part: -abs(part[1]))[:WORDS]
    named = [
        f"{name.removesuffix('_s').replace('_', ' ')} {seconds / total_s:+.1%}".replace("%", " %")
        for name, seconds in ranked
        if abs(seconds) >= SHOWN * total_s
    ]
    step = f"{share:+.1%} a step".replace("%", " %")
    return f"{changed or 'the same split'}: {step}" + (f": {', '.join(named)}" if named else "")
