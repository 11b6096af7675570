"""Three walls: how energy, reliability and parallelism bound effective compute as devices grow.

For each number of devices, the share of their peak that becomes kept model FLOPs,

    E = powered * kept * MFU

* energy: `powered`, the share of the devices that the site's power limit can feed;
* reliability: `kept`, what failures, repairs, saves and restarts leave (`cost.effective`);
* parallelism: MFU of the best split at one global batch. The batch is what limits: beyond the critical batch size, more
  sequences per step teach little (McCandlish et al., arXiv:1812.06162: tokens grow as 1 + B/B_crit), so more devices
  can only cut the same batch finer.

Each wall is looked at plain and with its counter-measures: each alone on top of plain, and all but it. The wall that
binds is the one with the least share left; for parallelism that is MFU over the best MFU of all rows.

Plain, and what the measures are: `plan.countermeasures`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from myriarch.cost.energy import DEFAULT_PUE as DEFAULT_PUE
from myriarch.cost.failures import MEASURED_DEVICES
from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.plan.countermeasures import ALL, GROUP_DEVICES, PLAIN, Best, Kept, Measure, Outcome, Splits, Wall, mfu_of

ALL_IN: Final = 1.22
"""Power of a node at the wall over the boards' rating: 856 W a device of 700 W, MLPerf Training v4.0 with power, GPT-3
on 512 H100."""
BATCH_TOKENS: Final = 16e6
"""Tokens of a step at the end of Llama 3 405B (arXiv:2407.21783, section 3.4.1)."""
J_PER_KWH: Final = 3.6e6


class EnergyWall(Value, frozen=True, kw_only=True):
    power_w: float
    """Of the whole site, cooling included."""
    limit_w: float | None
    powered: float
    j_per_token: float | None
    """Of tokens whose step was kept, with all counter-measures. None: nothing is kept."""
    j_per_token_plain: float | None
    price_per_million_tokens: float | None


class ReliabilityWall(Value, frozen=True, kw_only=True):
    mtbf_s: float
    spares: int
    """Nodes that suffice 99 % of the time."""
    interval_s: float
    """Between two saves in memory."""
    recover_s: float
    recover_s_plain: float
    kept: float
    kept_plain: float


class ParallelismWall(Value, frozen=True, kw_only=True):
    best: Outcome | None
    plain: Outcome | None
    efficiency: float
    """MFU over the best MFU of all rows."""
    efficiency_plain: float


class Row(Value, frozen=True, kw_only=True):
    """One number of devices."""

    devices: int
    effective: float
    """With all counter-measures."""
    effective_plain: float
    binds: Wall
    binds_plain: Wall
    energy: EnergyWall
    reliability: ReliabilityWall
    parallelism: ParallelismWall
    measures: tuple[Measure, ...]


class Walls(Value, frozen=True, kw_only=True):
    """The answer of `myriarch walls`."""

    model: str
    chip: str
    batch_tokens: float
    rows: tuple[Row, ...]
    assumptions: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """Where the devices would stand."""

    limit_w: float | None = None
    """All that the site can draw; None: no limit."""
    pue: float = DEFAULT_PUE
    price_per_kwh: float | None = None


def device_counts(first: int, last: int, *, points: int = 7) -> tuple[int, ...]:
    """Log-spaced numbers that models can be split over: 2^a or 3 * 2^a, next to `first` ... `last`."""
    for name, value in (("--from", first), ("--to", last)):
        if value < 1:
            raise SpecError(f"{value} devices", path=name, hint="use a number from 1 up")
    if first > last:
        raise SpecError(f"{first} devices is more than the {last} of --to", path="--from", hint="swap them")
    smooth = sorted(factor << bit for factor in (1, 3) for bit in range(40))
    targets = np.geomspace(first, last, max(points, 2))
    return tuple(sorted({min(smooth, key=lambda n: abs(math.log(n / target))) for target in targets}))


def walls(
    *,
    model: str,
    chip: str,
    devices: Sequence[int],
    best: Best,
    batch_tokens: float,
    board_w: float,
    site: Site | None = None,
    devices_per_node: int = 8,
    node_failures_per_day: float | None = None,
) -> Walls:
    """The three walls at these numbers of devices. `board_w`: rating of one device. Raises SpecError where nothing fits
    at any of them."""
    place = site or Site()
    found = {count: (best(count, PLAIN), best(count, ALL)) for count in devices}
    fitting = [count for count in devices if found[count][0] is not None or found[count][1] is not None]
    if not fitting:
        raise SpecError(f"`{model}` fits on none of {', '.join(map(str, devices))} devices of {chip}", path="--from")
    parallel = Splits(found, best)
    kept = Kept(fitting, parallel, devices_per_node=devices_per_node, node_failures_per_day=node_failures_per_day)
    rows = tuple(
        _row(count, index, parallel, kept, place, board_w=board_w, batch_tokens=batch_tokens)
        for index, count in enumerate(fitting)
    )
    return Walls(
        model=model, chip=chip, batch_tokens=batch_tokens, rows=rows, assumptions=_assumptions(fitting, devices, place)
    )


def _row(
    count: int, index: int, parallel: Splits, kept: Kept, site: Site, *, board_w: float, batch_tokens: float
) -> Row:
    plain, full = parallel.pair(count)
    power_w = count * board_w * ALL_IN * site.pue
    powered = 1.0 if site.limit_w is None else min(site.limit_w / power_w, 1.0)
    safe, exposed = kept.all, kept.plain
    kept_share, kept_plain = float(kept.share(safe)[index]), float(kept.share(exposed)[index])
    mfu, mfu_plain = mfu_of(full), mfu_of(plain)
    top, top_plain = parallel.top
    shares: dict[Wall, float] = {"energy": powered, "reliability": kept_share, "parallelism": mfu / top}
    shares_plain: dict[Wall, float] = {
        "energy": powered,
        "reliability": kept_plain,
        "parallelism": mfu_plain / top_plain if top_plain else 0.0,
    }
    effective, effective_plain = powered * kept_share * mfu, powered * kept_plain * mfu_plain
    energy_j = _j_per_token(full, power_w, kept_share, batch_tokens)
    return Row(
        devices=count,
        effective=effective,
        effective_plain=effective_plain,
        binds=min(shares, key=lambda wall: shares[wall]),
        binds_plain=min(shares_plain, key=lambda wall: shares_plain[wall]),
        energy=EnergyWall(
            power_w=power_w,
            limit_w=site.limit_w,
            powered=powered,
            j_per_token=energy_j,
            j_per_token_plain=_j_per_token(plain, power_w, kept_plain, batch_tokens),
            price_per_million_tokens=(
                None
                if site.price_per_kwh is None or energy_j is None
                else energy_j * 1e6 / J_PER_KWH * site.price_per_kwh
            ),
        ),
        reliability=ReliabilityWall(
            mtbf_s=float(safe.mtbf_s[index]),
            spares=int(safe.spares[index]),
            interval_s=float(safe.pattern.interval_of_s(1)[index]),
            recover_s=float(safe.recover_s[index]),
            recover_s_plain=float(exposed.recover_s[index]),
            kept=kept_share,
            kept_plain=kept_plain,
        ),
        parallelism=ParallelismWall(
            best=full,
            plain=plain,
            efficiency=shares["parallelism"],
            efficiency_plain=shares_plain["parallelism"],
        ),
        measures=(
            *kept.measures(index, plain=powered * mfu_plain, full=powered * mfu),
            *parallel.measures(count, plain=powered * kept_plain, full=powered * kept_share),
        ),
    )


def _j_per_token(outcome: Outcome | None, power_w: float, kept: float, batch_tokens: float) -> float | None:
    """Devices draw the same while work is lost."""
    if outcome is None or kept <= 0:
        return None
    return power_w * outcome.step_s / batch_tokens / kept


def _assumptions(fitting: Sequence[int], asked: Sequence[int], site: Site) -> tuple[str, ...]:
    said = [
        "failures: those of Llama 3, growing past 55,000 devices to Meta's at 98,304, unless the fleet states its own",
        f"power: {ALL_IN} times the board's rating at the wall (MLPerf Training v4.0), PUE {site.pue}",
        "recovery with all measures: Myriarch's times on five devices of one machine; at scale they are a goal",
        "recovery without: time-out of 10 min, restart of 50 s and 9 ms per device (Meta), hourly saves to the store",
        f"replica groups of {GROUP_DEVICES} devices go on without one that failed",
    ]
    if max(fitting) > MEASURED_DEVICES:
        said.append(f"past {MEASURED_DEVICES:,.0f} devices no failure rate was published: extrapolated")
    missing = [str(count) for count in asked if count not in fitting]
    if missing:
        said.append(f"no split fits on {', '.join(missing)} devices")
    return tuple(said)
