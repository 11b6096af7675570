"""One training over several unlike pools: who takes part, with which split and share, and how they keep one model.

An *entrant* is a pool that can hold a replica group by itself, or two pools that hold one group's pipeline together. A
*family* is a set of entrants that have no pool in common. For each family the shares are the exact optimum
(`plan.unlike_shares`), and of the averagings (`plan.bridge`) the one with the least judged seconds is taken. All
families are considered, so a pool that would hold the others up is left out by comparison, and a further pool never
makes the best plan slower. Families are looked at in the order of a bound that needs no shares; once the bound exceeds
the worst of the plans wanted, the rest cannot be among them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from myriarch.cost.arrays import Array
from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.plan.bridge import ALONE, AVERAGINGS, Averaging, Bridges, Crossing, quality
from myriarch.plan.unlike_shares import Balance, Envelope, Offers, balance, bound_s, envelope, supply, unit_of

FAMILIES_LIMIT: Final = 1 << 13
"""All families of 12 pools, and pipelines of pairs of them as far as they fit."""


class Way(Value, frozen=True, kw_only=True):
    """How an entrant runs, in words that a person and a launcher understand."""

    split: dict[str, float]
    """Axes of the mesh and what else the formulas take: `tp`, `pp`, `dp`, `micro_batch`, ..."""
    devices: dict[str, int]
    """At work, by pool."""
    stage_layers: tuple[int, ...] = ()
    """Of each stage of a pipeline over two pools, first to last."""
    stage_pools: tuple[str, ...] = ()
    memory_bytes: float = 0.0
    """Of the fullest device."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entrant:
    """Who may take part."""

    pools: tuple[str, ...]
    offers: Offers
    describe: Callable[[int], Way]
    doubts: tuple[str, ...] = ()
    """Numbers of its chips that were not read in a source that can be relied on."""


class Refusal(Value, frozen=True, kw_only=True):
    """A pool that is not in a plan, and why."""

    pool: str
    reason: str
    step_s: float | None = None
    """With it, where that is possible."""


class GroupPlan(Value, frozen=True, kw_only=True):
    """One replica group."""

    pools: tuple[str, ...]
    way: Way
    sequences: int
    """Its share of the batch."""
    micro_batches: int
    """Of each replica."""
    step_s: float
    """Its own step, without the bridge."""
    slack_s: float
    """That it waits for the slowest group."""
    doubts: tuple[str, ...]


class AveragingPlan(Value, frozen=True, kw_only=True):
    """One way to keep one model, and what it costs."""

    averaging: Averaging
    step_s: float
    judged_s: float
    """`step_s` times the averaging's price: what plans are compared by."""
    exposed_s: float
    """Of a step's seconds, those that the bridge adds."""
    quality: str


class UnlikePlan(Value, frozen=True, kw_only=True):
    """One plan over unlike pools."""

    step_s: float
    sequences_per_s: float
    groups: tuple[GroupPlan, ...]
    bridge: AveragingPlan
    crossing: Crossing | None
    """One exchange over the bridge; None with one group."""
    alternatives: tuple[AveragingPlan, ...]
    """Other averagings of the same groups, best first."""
    left_out: tuple[Refusal, ...]
    of_sum_of_solos: float | None
    """Sequences per second over the sum of what each pool at work trains by itself, with its own best split and the
    same batch; None when one of them cannot."""
    of_best_solo: float | None
    """...over the best of them."""
    reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """A family with its best averaging."""

    family: tuple[int, ...]
    averaging: Averaging
    balance: Balance
    envelopes: tuple[Envelope, ...]
    step_s: float

    @property
    def judged_s(self) -> float:
        return self.step_s * self.averaging.price


class _Search:
    """The families of some entrants; each is solved at most once for each distinct exchange."""

    def __init__(
        self,
        entrants: Sequence[Entrant],
        *,
        batch: int,
        parameters: float,
        bridges: Bridges,
        averagings: Sequence[Averaging],
    ) -> None:
        self.entrants: Final = tuple(entrants)
        self.batch: Final = batch
        self.bridges: Final = bridges
        self._parameters: Final = parameters
        self._averagings: Final = tuple(averagings)
        self.unit: Final = unit_of([entrant.offers for entrant in entrants], batch)
        self.units: Final = batch // self.unit
        self._envelopes: dict[tuple[int, float], Envelope] = {}
        self._supplies: dict[int, Array] = {}
        self._balances: dict[tuple[tuple[int, ...], float], Balance | None] = {}
        self._found: dict[tuple[int, ...], tuple[_Found, ...]] = {}

    def families(self) -> tuple[tuple[int, ...], ...]:
        """Sets of entrants without a pool in common, smaller ones first. Raises SpecError when they are too many."""
        found: list[tuple[int, ...]] = []
        for family in _disjoint([set(entrant.pools) for entrant in self.entrants]):
            found.append(family)
            if len(found) > FAMILIES_LIMIT:
                raise SpecError(
                    f"{len(self.entrants)} pools and pairs of pools make more than {FAMILIES_LIMIT} sets to compare",
                    hint="join pools of one kind on one site, or plan for at most 12",
                )
        return tuple(sorted(found, key=lambda family: (len(family), family)))

    def pools(self, family: Sequence[int]) -> tuple[tuple[str, ...], ...]:
        return tuple(self.entrants[index].pools for index in family)

    def missing_link(self, family: Sequence[int]) -> tuple[str, str] | None:
        """Two pools of different groups that no link joins."""
        groups = self.pools(family)
        for at, group in enumerate(groups):
            for other in groups[at + 1 :]:
                for one, two in itertools.product(group, other):
                    if self.bridges.link(one, two) is None:
                        return one, two
        return None

    def crossing(self, family: Sequence[int], averaging: Averaging) -> Crossing | None:
        if len(family) == 1:
            return None
        return self.bridges.exchange(self._parameters * averaging.value_bytes, self.pools(family))

    def averagings(self, family: Sequence[int]) -> tuple[Averaging, ...]:
        return (ALONE,) if len(family) == 1 else self._averagings

    def bound(self, family: tuple[int, ...]) -> float:
        """Judged seconds that no shares and no averaging of the family go below; inf when it cannot run."""
        if self.missing_link(family) is not None:
            return math.inf
        alone = bound_s([self._supply(index) for index in family], self.units)
        # Each way's addition is at least what the widest window of all leaves.
        hidden = max(self._windows(index) for index in family)
        judged = []
        for averaging in self.averagings(family):
            crossing = self.crossing(family, averaging)
            exchange_s = crossing.seconds if crossing else 0.0
            added = max(averaging.added_s(exchange_s) - hidden, 0.0)
            judged.append(max(alone + added, averaging.floor_s(exchange_s)) * averaging.price)
        return min(judged)

    def solved(self, family: tuple[int, ...]) -> tuple[_Found, ...]:
        """Every averaging of a family with its exact shares, least judged seconds first; empty when there are none."""
        if family not in self._found:
            found = []
            for averaging in self.averagings(family) if self.missing_link(family) is None else ():
                crossing = self.crossing(family, averaging)
                exchange_s = crossing.seconds if crossing else 0.0
                solved = self._solve(family, averaging, exchange_s)
                found.extend([solved] if solved else [])
            self._found[family] = tuple(sorted(found, key=lambda each: each.judged_s))
        return self._found[family]

    def best(self, family: tuple[int, ...]) -> _Found | None:
        solved = self.solved(family)
        return solved[0] if solved else None

    def _solve(self, family: tuple[int, ...], averaging: Averaging, exchange_s: float) -> _Found | None:
        added_s = averaging.added_s(exchange_s)
        # Where nothing is hidden, an exchange moves all ways alike, and the shares are those without it.
        hides = any(self._windows(index) > 0.0 for index in family) and averaging.mode == "every_step"
        inside_s = added_s if hides else 0.0
        key = (family, inside_s)
        envelopes = tuple(self._envelope(index, inside_s) for index in family)
        if key not in self._balances:
            self._balances[key] = balance(envelopes, self.units)
        shares = self._balances[key]
        if shares is None:
            return None
        step_s = max(shares.seconds + (0.0 if hides else added_s), averaging.floor_s(exchange_s))
        return _Found(family=family, averaging=averaging, balance=shares, envelopes=envelopes, step_s=step_s)

    def _windows(self, index: int) -> float:
        window_s = self.entrants[index].offers.window_s
        return float(window_s.max()) if len(window_s) else 0.0

    def _envelope(self, index: int, exchange_s: float) -> Envelope:
        key = (index, exchange_s)
        if key not in self._envelopes:
            offers = self.entrants[index].offers
            self._envelopes[key] = envelope(offers, batch=self.batch, unit=self.unit, exchange_s=exchange_s)
        return self._envelopes[key]

    def _supply(self, index: int) -> Array:
        if index not in self._supplies:
            self._supplies[index] = supply(self._envelope(index, 0.0))
        return self._supplies[index]


def _disjoint(
    pools: Sequence[set[str]], start: int = 0, taken: frozenset[str] = frozenset()
) -> Iterator[tuple[int, ...]]:
    """Non-empty sets of entrants that share no pool."""
    for index in range(start, len(pools)):
        if taken.isdisjoint(pools[index]):
            yield (index,)
            for rest in _disjoint(pools, index + 1, taken | pools[index]):
                yield (index, *rest)


def unlike_plans(
    entrants: Sequence[Entrant],
    *,
    batch: int,
    parameters: float,
    bridges: Bridges,
    averagings: Sequence[Averaging] = AVERAGINGS,
    refused: Sequence[Refusal] = (),
    top: int = 5,
) -> tuple[UnlikePlan, ...]:
    """The best plans for a batch of so many sequences of a model of so many parameters, best first.

    Each plan is another family with its best averaging. Empty when no family can run: then no pool holds the model, or
    no shares sum to the batch.
    """
    entrants = [entrant for entrant in entrants if len(entrant.offers)]
    if not entrants:
        return ()
    search = _Search(entrants, batch=batch, parameters=parameters, bridges=bridges, averagings=averagings)
    found: list[_Found] = []
    bounded = sorted((search.bound(family), family) for family in search.families())
    for bound, family in bounded:
        if not math.isfinite(bound) or (len(found) >= top and bound > found[top - 1].judged_s):
            break
        best = search.best(family)
        if best is not None:
            found = sorted([*found, best], key=lambda each: (each.judged_s, len(each.family), each.family))
    found = found[:top]
    return tuple(
        _plan(search, each, found[at + 1] if at + 1 < len(found) else None, refused) for at, each in enumerate(found)
    )


def _plan(search: _Search, found: _Found, behind: _Found | None, refused: Sequence[Refusal]) -> UnlikePlan:
    groups = tuple(_group(search, found, at) for at in range(len(found.family)))
    choices = [_averaged(search, each) for each in search.solved(found.family)]
    left_out = (*_left_out(search, found), *refused)
    rate = search.batch / found.step_s
    solos = _solos(search, found)
    known = [solo for solo in solos if solo is not None]
    return UnlikePlan(
        step_s=found.step_s,
        sequences_per_s=rate,
        groups=groups,
        bridge=choices[0],
        crossing=search.crossing(found.family, found.averaging),
        alternatives=tuple(choices[1:]),
        left_out=left_out,
        of_sum_of_solos=rate / sum(known) if len(known) == len(solos) else None,
        of_best_solo=rate / max(known) if known else None,
        reasons=tuple(_reasons(search, found, behind, groups, choices)),
    )


def _group(search: _Search, found: _Found, at: int) -> GroupPlan:
    entrant = search.entrants[found.family[at]]
    share = found.balance.shares[at]
    way = int(found.envelopes[at].way[share])
    sequences = share * search.unit
    micro_batches = sequences // int(entrant.offers.quantum[way])
    times = [float(each.seconds[own]) for each, own in zip(found.envelopes, found.balance.shares, strict=True)]
    return GroupPlan(
        pools=entrant.pools,
        way=entrant.describe(way),
        sequences=sequences,
        micro_batches=micro_batches,
        step_s=entrant.offers.step_s(way, micro_batches),
        slack_s=max(times) - times[at],
        doubts=entrant.doubts,
    )


def _averaged(search: _Search, found: _Found) -> AveragingPlan:
    alone = [
        search.entrants[index].offers.step_s(
            int(each.way[share]),
            share * search.unit // int(search.entrants[index].offers.quantum[int(each.way[share])]),
        )
        for index, each, share in zip(found.family, found.envelopes, found.balance.shares, strict=True)
    ]
    return AveragingPlan(
        averaging=found.averaging,
        step_s=found.step_s,
        judged_s=found.judged_s,
        exposed_s=max(found.step_s - max(alone), 0.0),
        quality=quality(found.averaging, parameters=search._parameters, groups=len(found.family)),
    )


def _solos(search: _Search, found: _Found) -> list[float | None]:
    """Sequences per second of each pool at work by itself; None where it cannot."""
    by_pool: Mapping[tuple[str, ...], int] = {entrant.pools: index for index, entrant in enumerate(search.entrants)}
    rates: list[float | None] = []
    for pool in (pool for group in search.pools(found.family) for pool in group):
        index = by_pool.get((pool,))
        best = search.best((index,)) if index is not None else None
        rates.append(search.batch / best.step_s if best else None)
    return rates


def _left_out(search: _Search, found: _Found) -> Iterator[Refusal]:
    """Pools that could take part and do not."""
    at_work = {pool for group in search.pools(found.family) for pool in group}
    for index, entrant in enumerate(search.entrants):
        if len(entrant.pools) > 1 or entrant.pools[0] in at_work:
            continue
        pool = entrant.pools[0]
        wider = tuple(sorted((*found.family, index)))
        missing = search.missing_link(wider)
        best = search.best(wider)
        if missing is not None:
            reason = f"the fleet has no link between {missing[0]} and {missing[1]}"
        elif best is None:
            reason = f"no shares of {search.batch} sequences give it whole micro-batches"
        else:
            crossing = search.crossing(wider, best.averaging)
            over = f" over {crossing.bottleneck} ({crossing.seconds:.3g} s an exchange)" if crossing else ""
            reason = (
                f"with it a step would take {best.step_s:.4g} s, averaging {best.averaging.label}{over}, "
                f"instead of {found.step_s:.4g} s"
            )
        yield Refusal(pool=pool, reason=reason, step_s=best.step_s if best else None)


def _reasons(
    search: _Search,
    found: _Found,
    behind: _Found | None,
    groups: Sequence[GroupPlan],
    choices: Sequence[AveragingPlan],
) -> Iterator[str]:
    slowest = max(groups, key=lambda group: group.step_s)
    yield (
        f"shares are the exact optimum of {search.batch} sequences over these splits; "
        f"{' and '.join(slowest.pools)} sets the pace, the others wait at most "
        f"{max(group.slack_s for group in groups):.3g} s"
    )
    crossing = search.crossing(found.family, found.averaging)
    if crossing is not None:
        yield (
            f"{found.averaging.label}: {crossing.size_bytes / 1e9:.3g} GB over {crossing.bottleneck} take "
            f"{crossing.seconds:.3g} s an exchange, {choices[0].exposed_s:.3g} s of a step"
        )
        if found.averaging.mode != "every_step":
            yield "the trainer averages every step so far: this plan needs a training loop that does otherwise"
        for other in choices[1:2]:
            yield (
                f"next best averaging: {other.averaging.label}, {other.step_s:.4g} s a step, judged "
                f"{other.judged_s:.4g} s against {choices[0].judged_s:.4g} s; its loss: {other.quality}"
            )
    if behind is not None:
        names = ", ".join(" and ".join(pools) for pools in search.pools(behind.family))
        yield f"next plan: {names}, {behind.step_s:.4g} s a step ({behind.judged_s / found.judged_s - 1.0:+.1%} judged)"
    for group in groups:
        for doubt in group.doubts:
            yield f"rests on doubtful numbers: {doubt}"
