"""What crosses between replica groups on unlike pools, how often, and what a rarer exchange costs in quality.

*Every step*: each group sends its gradient to every other one and adds what it receives in a fixed order in fp32 (that
order is what makes all groups bit-identical), so each link between two pools carries one gradient in each direction,
full duplex, and a pool's network cards carry one for every other pool.

*Every H steps* (DiLoCo: Douillard et al., arXiv:2311.08105): groups train by themselves and exchange the change of
their parameters, which an outer Nesterov step applies; a step pays 1/H of one exchange. *Streamed* (Streaming DiLoCo,
arXiv:2501.18512): the change goes in fragments and four bits a value, beside compute, so that the link has the whole of
H steps for it: it only floors the step's time.

The rule. An averaging is judged by

    step seconds * (1 + GAIN_LEAST) ** (log10 H + (1 if streamed))

so averaging every 10 steps has to shorten the step by 5 %, every 100 by 10 %, and streaming by 5 % more: loss grows
with H (arXiv:2503.09799, section 5.1 and figure 9; by how much is drawn there, not printed), and what a rarer averaging
costs in tokens at the sizes that fleets are planned for is published nowhere. The price does not depend on the link, so
the least judged time never grows with a link's bandwidth. H stays among the values that were published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from myriarch.event.base import Value
from myriarch.spec.fleet import Fleet, Link

GAIN_LEAST: Final = 0.05
"""See the rule above. The share of exposed communication that is usually put up with."""


class Averaging(Value, frozen=True, kw_only=True):
    """How groups keep one model."""

    mode: Literal["none", "every_step", "every_h_steps", "streamed"]
    every_steps: int = 1
    """H."""
    value_bytes: float = 4.0
    """Of one parameter, each way, in each exchange."""

    @property
    def price(self) -> float:
        """Factor on the step's seconds in comparisons; 1 where the mathematics is that of one large batch."""
        streamed = 1.0 if self.mode == "streamed" else 0.0
        return math.pow(1.0 + GAIN_LEAST, math.log10(self.every_steps) + streamed)

    @property
    def label(self) -> str:
        """In a few words, for reasons."""
        bits = f"{self.value_bytes * 8.0:g} bits a parameter"
        if self.mode == "none":
            return "one group, nothing to average"
        if self.mode == "every_step":
            return f"gradients every step, {bits}"
        beside = " in fragments beside compute" if self.mode == "streamed" else ""
        return f"parameters every {self.every_steps} steps{beside}, {bits}"

    def added_s(self, exchange_s: float) -> float:
        """Seconds that an exchange adds to each step where nothing hides it."""
        return {"every_step": exchange_s, "every_h_steps": exchange_s / self.every_steps}.get(self.mode, 0.0)

    def floor_s(self, exchange_s: float) -> float:
        """Seconds that a step has at least because the link is busy all the while."""
        return exchange_s / self.every_steps if self.mode == "streamed" else 0.0


ALONE: Final = Averaging(mode="none")
EVERY_STEP: Final = Averaging(mode="every_step")
AVERAGINGS: Final[tuple[Averaging, ...]] = (
    EVERY_STEP,
    # The cadences that arXiv:2503.09799 swept (1, 5, 10, 30, 100, 300); at 1 DiLoCo is at its worst.
    *(Averaging(mode="every_h_steps", every_steps=steps) for steps in (10, 30, 100, 300)),
    # Streaming DiLoCo's own: outer gradients in four bits.
    *(Averaging(mode="streamed", every_steps=steps, value_bytes=0.5) for steps in (30, 100)),
)
"""What is tried. Today's trainer has the first; the others say what it would gain."""


class Crossing(Value, frozen=True, kw_only=True):
    """One exchange between the groups of a set of pools."""

    size_bytes: float
    """That each group sends to each other one."""
    seconds: float
    bottleneck: str
    """`a - b`: the slowest link, or the pool whose network cards are busiest."""


class Bridges(Value, frozen=True, kw_only=True):
    """The links between pools and what of them an exchange reaches."""

    links: dict[tuple[str, str], Link]
    """By the two pools' names in alphabetical order."""
    share: float = 1.0
    """Of a link's bandwidth that an exchange reaches."""
    card_bytes_per_s: dict[str, float] = msgspec.field(default_factory=dict)
    """Of all network cards of a pool, one direction; pools that are not named have enough."""

    @classmethod
    def of(cls, fleet: Fleet, *, share: float, card_bytes_per_s: Mapping[str, float]) -> Bridges:
        """The links that a fleet file describes."""
        first: dict[tuple[str, str], Link] = {}
        for link in fleet.links:
            ends = sorted(link.between)
            first[ends[0], ends[1]] = link
        return cls(links=first, share=share, card_bytes_per_s=dict(card_bytes_per_s))

    def link(self, one: str, other: str) -> Link | None:
        """The link between two pools, if the fleet has one."""
        return self.links.get((min(one, other), max(one, other)))

    def send_s(self, size_bytes: float, one: str, other: str) -> float:
        """Seconds to send so many bytes from one pool to the other; inf without a link."""
        link = self.link(one, other)
        if link is None:
            return math.inf
        return size_bytes / (link.bandwidth_bytes_per_s * self.share) + link.latency_s

    def missing(self, pools: Sequence[str]) -> tuple[str, str] | None:
        """Two of the pools that no link joins."""
        pairs = ((one, other) for at, one in enumerate(pools) for other in pools[at + 1 :])
        return next((pair for pair in pairs if self.link(*pair) is None), None)

    def exchange(self, size_bytes: float, groups: Sequence[Sequence[str]]) -> Crossing:
        """Every group sends `size_bytes` to every other. A group is the pools that it lies on.

        A group over two pools sends from both at once: of each parameter the pool that holds its layer. Which those are
        is known only with its layers, so each of its links is taken to carry everything: never too little.
        """
        worst = Crossing(size_bytes=size_bytes, seconds=0.0, bottleneck="")
        for at, group in enumerate(groups):
            for other in groups[at + 1 :]:
                for one, two in ((one, two) for one in group for two in other):
                    seconds = self.send_s(size_bytes, one, two)
                    if seconds > worst.seconds:
                        worst = Crossing(size_bytes=size_bytes, seconds=seconds, bottleneck=f"{one} - {two}")
        for pool in (pool for group in groups for pool in group):
            rate = self.card_bytes_per_s.get(pool, math.inf) * self.share
            seconds = (len(groups) - 1) * size_bytes / rate
            if seconds > worst.seconds:
                worst = Crossing(size_bytes=size_bytes, seconds=seconds, bottleneck=f"network cards of {pool}")
        return worst


PUBLISHED_LOSS: Final[tuple[tuple[float, dict[int, float]], ...]] = (
    (35e6, {1: -0.001, 2: 0.007, 4: 0.020, 8: 0.039}),
    (90e6, {1: -0.001, 2: 0.005, 4: 0.015, 8: 0.031}),
    (180e6, {1: -0.002, 2: 0.003, 4: 0.011, 8: 0.023}),
    (335e6, {1: -0.003, 2: 0.001, 4: 0.009, 8: 0.020}),
    (550e6, {1: -0.003, 2: 0.002, 4: 0.007, 8: 0.017}),
    (1.3e9, {1: -0.004, 2: 0.002, 4: 0.005, 8: 0.013}),
    (2.4e9, {1: -0.004, 2: -0.001, 4: 0.003, 8: 0.011}),
    (4e9, {1: -0.0022, 2: -0.0018, 4: 0.0018}),
    (10e9, {1: -0.0019, 2: -0.0019, 4: 0.0029}),
)
"""Evaluation loss of DiLoCo over that of data parallelism, minus 1, by parameters and replicas: Charles et al.,
"Scaling Laws for DiLoCo" (arXiv:2503.09799), tables 4 and 5. H = 30, 20 tokens a parameter, equal replicas."""
PUBLISHED_STEPS: Final = 30
SOURCE: Final = "arXiv:2503.09799, tables 4 and 5"


def quality(averaging: Averaging, *, parameters: float, groups: int) -> str:
    """What is published about the loss that an averaging costs, or that nothing is."""
    if averaging.mode in ("none", "every_step"):
        return "none: the same sum of gradients as one large batch"
    near = [(size, losses[groups]) for size, losses in PUBLISHED_LOSS if groups in losses]
    if not near:
        return f"not known: published for 1, 2, 4 and 8 equal groups ({SOURCE}), not for {groups}"
    if parameters > 1.1 * near[-1][0]:
        size, loss = near[-1]
        return (
            f"not known at {_billions(parameters)} parameters; loss {loss:+.1%} at {_billions(size)}, the largest "
            f"published for {groups} groups (H = {PUBLISHED_STEPS}; {SOURCE})"
        )
    below = max((row for row in near if row[0] <= parameters), default=near[0])
    above = min((row for row in near if row[0] >= parameters), default=near[-1])
    found = sorted({below, above})
    at = ", ".join(f"{loss:+.1%} at {_billions(size)}" for size, loss in found)
    cadence = "" if averaging.every_steps == PUBLISHED_STEPS else f"; more at H = {averaging.every_steps}: not printed"
    if averaging.every_steps < PUBLISHED_STEPS:
        cadence = f"; less at H = {averaging.every_steps}: not printed"
    streamed = "; of fragments in four bits: not known here" if averaging.mode == "streamed" else ""
    return f"loss {at} with {groups} equal groups and H = {PUBLISHED_STEPS} ({SOURCE}){cadence}{streamed}"


def _billions(parameters: float) -> str:
    return f"{parameters / 1e9:.3g}B"
