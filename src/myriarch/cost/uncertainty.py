"""How far a predicted step may be from the real one: 80 % intervals that are wider where less is known.

The log of measured / predicted lies within plus and minus a reach four times out of five. Independent reasons add as
variances do:

    reach^2 = base^2 + (other)^2 + (mixture)^2 + (narrow bits)^2 + (short)^2 + (scale)^2 + (chip)^2

each width by how much of the reason there is. The widths of a step are calibrated by `benchmarks/calibrate.py`: they
minimise the pinball loss of the 80 % quantile (Koenker and Bassett, Econometrica 46, 1978) over sources that the
constants have not seen. The chip's are from the catalogue itself: where nobody has measured a chip's matrix products,
its rate is as uncertain as the measured chips' shares of their peaks are spread.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from myriarch.cost.arrays import Array, Real
from myriarch.cost.decoder import Decoder
from myriarch.cost.split import Split
from myriarch.cost.step import StepTime
from myriarch.spec.fleet import Chip

SHORT_S: Final = 0.5
"""Steps shorter than this hang more on launches, on the host and on what is not modelled."""
SEEN_DEVICES: Final = 4096.0
"""Few published runs with times are larger."""
UNMEASURED: Final = 0.22
"""Reach of log(best measured matmul rate / peak) over the catalogue's chips that were measured: 51 to 97 %, eight of
ten within plus and minus this of their median."""
UNLIKE: Final = 0.15
"""A chip of which no published run was at hand: its kernels, links and compilers are not the measured ones'. An
assumption; with `UNMEASURED` it makes 0.27, which holds 24 of the 30 held-out runs on TPUs."""
CONFIDENCE: Final = {"measured": 0.0, "high": 0.0, "declared": 0.0, "medium": 0.10, "low": 0.20, "announced": 0.30}
"""Of the catalogue's numbers: what sources of low confidence print of one chip differs by plus and minus a fifth (256
to 376 TFLOP/s of an Ascend 910B), and announced chips have not been built."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Widths:
    """Reaches of the log of a step's time, one for each reason; the fields sum as squares."""

    base: float = 0.08
    other: float = 0.15
    """A step none of which is in matrix products, the part that is known best."""
    mixture: float = 0.12
    """A mixture of experts: routing, its launches and their balance."""
    narrow: float = 0.04
    """For each halving of the bits of the products: 8 bits one, 4 bits two."""
    short: float = 0.15
    """For each factor of ten that a step is shorter than `SHORT_S`."""
    scale: float = 0.10
    """For each factor of ten of devices beyond `SEEN_DEVICES`."""


WIDTH_BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "base": (0.04, 0.20),
    "other": (0.0, 0.40),
    "mixture": (0.0, 0.40),
    "narrow": (0.0, 0.15),
    "short": (0.0, 0.40),
    "scale": (0.05, 0.20),
}
"""What each can be in nature; calibration stays inside."""


def reasons(decoder: Decoder, *, split: Split, step: StepTime) -> dict[str, Array]:
    """How much there is of each reason that `Widths` names."""
    bits = np.asarray(split.narrow_share) * np.log2(2.0 / np.asarray(split.narrow_bytes))
    total_s = step.total_s
    once_s = step.matmul_s + step.attention_s + step.stream_s
    products_s = step.matmul_s * (1.0 + step.recompute_s / once_s)
    return {
        "base": np.ones(()),
        "other": np.clip(1.0 - products_s / total_s, 0.0, 1.0),
        "mixture": np.where(np.greater(decoder.experts, 0), 1.0, 0.0),
        "narrow": np.maximum(bits, 0.0),
        "short": np.maximum(np.log10(SHORT_S / total_s), 0.0),
        "scale": np.maximum(np.log10(np.asarray(split.devices) / SEEN_DEVICES), 0.0),
    }


def reach(amounts: dict[str, Array], widths: Widths, *, chip: Real = 0.0) -> Array:
    """Half of the interval's width in the log of the time."""
    square: Array = np.square(chip)
    for name, amount in amounts.items():
        square = square + np.square(amount * getattr(widths, name))
    return np.sqrt(square)


def chip_reach(chip: Chip, *, profiled: bool, seen: bool) -> float:
    """What is due to the chip's numbers. `profiled`: measured on the devices themselves; `seen`: among the chips of
    the published runs that the model was calibrated on."""
    if profiled:
        return 0.0
    measured = bool(chip.matmul_measured_flops_per_s)
    parts = (0.0 if measured or seen else UNMEASURED, 0.0 if seen else UNLIKE, CONFIDENCE[chip.confidence])
    return float(np.sqrt(sum(part * part for part in parts)))


def interval(
    decoder: Decoder, *, split: Split, step: StepTime, widths: Widths, chip: Real = 0.0
) -> tuple[Array, Array]:
    """Factors of a predicted time: four of five real ones lie between. `chip`: of `chip_reach`."""
    half = reach(reasons(decoder, split=split, step=step), widths, chip=chip)
    return np.exp(-half), np.exp(half)
