"""Breakdowns drawn from rates: vectorised, sorted, the same for the same seed.

Each pool, kind of event and use (gaps, nodes, causes, durations, lemons) has a random stream of its own, keyed by the
pool's name. So a longer period begins with the same events, and another pool changes nothing in this one.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray

from myriarch.errors import SpecError
from myriarch.schedule.layout import PoolLayout
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.rates import Cause, FaultRates
from myriarch.units import S_PER_DAY

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

STREAM: Final = 0x4641554C
"""First part of the spawn key of all streams here, so that nobody else's with the same seed is one of them."""
USES: Final = {"gaps": 0, "places": 1, "causes": 2, "durations": 3, "lemons": 4}
PROCESSES: Final = {"fault": 0, "slow": 1, "maintenance": 2, "rack": 3, "row": 4}
"""Each comes as a process of its own."""
BLOCK: Final = 1024
"""Gaps that are drawn at once."""
EVENTS_LIMIT: Final = 5_000_000
"""Breakdowns of all pools together: about 2 GB. 100,000 devices at ten times their rates have 300,000 in a year."""


def draw(
    model: FaultRates,
    pools: Sequence[PoolLayout] | Mapping[str, tuple[int, int]],
    *,
    until_s: float,
    seed: int,
    job_devices: int | None = None,
) -> tuple[Breakdown, ...]:
    """All breakdowns from 0 to below `until_s`, by time; at one instant by pool and node.

    `pools`: layouts, or (nodes, nodes in a rack) by name. `job_devices`: of the one job that works on them, whose rates
    may grow with its size (`FaultRates.growth`). Nodes break down also while they are away: who takes the breakdowns
    knows which matter. Raises SpecError for rates that cannot be, and for absurdly many events.
    """
    model.check()
    places = _layouts(pools)
    growth = model.growth(job_devices)
    _check_count(model, places, until_s=until_s, growth=growth)
    found: list[tuple[float, int, int, Breakdown]] = []
    for number, pool in enumerate(places):
        for process in PROCESSES:
            drawn = _pool_draw(model, _causes(model, process), pool, process, until_s, seed, growth)
            found += [(one.at_s, number, one.node, one) for one in drawn]
    found.sort(key=lambda each: each[:3])
    return tuple(each[3] for each in found)


def weibull_times(rng: Generator, *, rate_per_s: float, shape: float, until_s: float) -> Floats:
    """Instants of a stationary renewal process with Weibull gaps of mean 1 / rate.

    It has been going on for ever at 0: the first gap is the rest of one that covers 0, which is a uniform part of a
    length-biased gap (x^shape of it is gamma distributed with 1 + 1/shape). So the mean count is rate * time, exactly.
    """
    if not rate_per_s > 0.0:
        return np.empty(0)
    scale_s = 1.0 / (rate_per_s * math.gamma(1.0 + 1.0 / shape))
    first_s = scale_s * rng.gamma(1.0 + 1.0 / shape) ** (1.0 / shape) * rng.random()
    parts, last_s, count = [np.array([first_s])], first_s, 0
    while last_s < until_s:
        part = last_s + np.cumsum(scale_s * rng.weibull(shape, BLOCK))
        parts.append(part)
        last_s = float(part[-1])
        count += BLOCK
        if count > 2 * EVENTS_LIMIT:
            raise _too_many(rate_per_s * until_s, f"a rate of {rate_per_s * S_PER_DAY:.4g} a day", until_s=until_s)
    times = np.concatenate(parts)
    return times[times < until_s]


def node_weights(model: FaultRates, nodes: int, rng: Generator) -> Floats:
    """Share of the events that each node has; lemons are chosen evenly, at least one if there are any."""
    weights = np.ones(nodes)
    if model.lemon_share > 0.0 and nodes:
        lemons = min(max(1, round(model.lemon_share * nodes)), nodes)
        weights[rng.permutation(nodes)[:lemons]] = model.lemon_times
    shares: Floats = weights / weights.sum()
    return shares


def _check_count(model: FaultRates, pools: Sequence[PoolLayout], *, until_s: float, growth: float) -> None:
    """Raise SpecError where more breakdowns are to be expected than anybody can keep."""
    expected = math.fsum(
        _rate_per_s(model, process, pool, growth) * until_s * min(_size(process, pool), pool.nodes)
        for pool in pools
        for process in PROCESSES
    )
    if expected > EVENTS_LIMIT:
        nodes, devices = sum(pool.nodes for pool in pools), sum(pool.devices for pool in pools)
        each = expected / nodes / until_s * S_PER_DAY
        raise _too_many(
            expected,
            f"`{model.name}` gives each of {nodes:,} nodes ({devices:,} devices) {each:.4g} a day",
            until_s=until_s,
        )


def _too_many(expected: float, why: str, *, until_s: float) -> SpecError:
    most_s = until_s * EVENTS_LIMIT / expected
    return SpecError(
        f"about {expected:.3g} breakdowns in {until_s:.6g} s: {why}; {EVENTS_LIMIT:,} can be kept",
        hint=f"lower the rates, take fewer nodes, or at most {most_s:.3g} s",
    )


def _causes(model: FaultRates, process: str) -> list[Cause]:
    return [one for one in model.causes if _process(one) == process]


def _size(process: str, pool: PoolLayout) -> int:
    """Nodes of a place."""
    return {"rack": pool.nodes_per_rack, "row": pool.nodes_per_rack * pool.racks_per_pod}.get(process, 1)


def _rate_per_s(model: FaultRates, process: str, pool: PoolLayout, growth: float) -> float:
    """Events of one process on all places of a pool."""
    places = -(-pool.nodes // _size(process, pool))
    per_place_day = math.fsum(one.per_place_day for one in _causes(model, process))
    return per_place_day * places / S_PER_DAY * (1.0 if process == "maintenance" else growth)


def _process(cause: Cause) -> str:
    if cause.scope != "node":
        return cause.scope
    return cause.course if cause.course in ("slow", "maintenance") else "fault"


def _pool_draw(
    model: FaultRates,
    causes: Sequence[Cause],
    pool: PoolLayout,
    process: str,
    until_s: float,
    seed: int,
    growth: float,
) -> list[Breakdown]:
    """One process on one pool."""
    size = _size(process, pool)
    count = -(-pool.nodes // size)
    rates = np.array([one.per_place_day for one in causes])
    total = float(rates.sum()) * count / S_PER_DAY * (1.0 if process == "maintenance" else growth)
    if not total > 0.0:
        return []
    streams = {use: _stream(seed, pool.name, process, use) for use in USES}
    shape = model.shape if process == "fault" else 1.0
    at_s = weibull_times(streams["gaps"], rate_per_s=total, shape=shape, until_s=until_s)
    which = _choice(streams["causes"], rates / rates.sum(), len(at_s))
    weights = node_weights(model, count, streams["lemons"]) if process == "fault" else np.full(count, 1.0 / count)
    place = _choice(streams["places"], weights, len(at_s))
    normal, tail = streams["durations"].standard_normal(len(at_s)), streams["durations"].spawn(1)[0]
    lasts_s = _durations_s(causes, which, normal, tail.standard_exponential(len(at_s)))
    return [
        Breakdown(
            at_s=at,
            pool=pool.name,
            node=node,
            cause=causes[kind].name,
            course=causes[kind].course,
            duration_s=duration,
            factor=causes[kind].factor,
            announced_s=causes[kind].announced_s,
        )
        for at, kind, where, duration in zip(
            at_s.tolist(), which.tolist(), place.tolist(), lasts_s.tolist(), strict=True
        )
        for node in range(where * size, min((where + 1) * size, pool.nodes))
    ]


def _durations_s(causes: Sequence[Cause], which: Ints, normal: Floats, exponential: Floats) -> Floats:
    """Every event has both draws, whatever its cause, so that causes do not shift each other's."""
    sigma = np.array([one.lasts.sigma for one in causes])[which]
    middle_s = np.array([one.lasts.median_s or 0.0 for one in causes])[which]
    mean_s = np.array([one.lasts.mean_s for one in causes])[which]
    spread = np.array([one.lasts.median_s is None for one in causes])[which]
    return np.where(spread, mean_s * exponential, middle_s * np.exp(sigma * normal))


def _choice(rng: Generator, weights: Floats, count: int) -> Ints:
    """So many indices by their weights, which sum to 1."""
    bounds = np.cumsum(weights)
    found = np.searchsorted(bounds, rng.random(count) * bounds[-1], side="right")
    places: Ints = np.minimum(found, len(weights) - 1)
    return places


def _stream(seed: int, pool: str, process: str, use: str) -> Generator:
    key = (STREAM, zlib.crc32(pool.encode()), PROCESSES[process], USES[use])
    return np.random.default_rng(SeedSequence(seed, spawn_key=key))


def _layouts(pools: Sequence[PoolLayout] | Mapping[str, tuple[int, int]]) -> Sequence[PoolLayout]:
    if not isinstance(pools, Mapping):
        return pools
    return [
        PoolLayout(name=name, nodes=nodes, devices_per_node=1, nodes_per_rack=rack)
        for name, (nodes, rack) in pools.items()
    ]
