"""Breakdowns as they unfold: what they do to the jobs on a node, and when the scheduler hears of it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, get_args

from myriarch.errors import SpecError
from myriarch.event.spans import Leaf
from myriarch.schedule.decision import Decision
from myriarch.schedule.scheduler import Draining, Scheduler, Surviving
from myriarch.simulate.breakdowns import Breakdown, Course
from myriarch.simulate.cluster_ledger import nodes_of
from myriarch.simulate.cluster_lives import Lives
from myriarch.simulate.cluster_nodes import NodeKey

Turn = Literal["back", "faster", "noticed", "announced", "begins", "found"]
"""`back`: the node can be used again. `faster`: it is no longer slow. `noticed`: wrong values were found. `announced`:
maintenance is to come. `begins`: it happens. `found`: somebody knows that the node is gone."""

RANK: Final[Mapping[Turn, int]] = {turn: rank for rank, turn in enumerate(get_args(Turn))}
"""What comes first at one instant: what nodes gain before what they lose."""

AWAY: Final[Mapping[Course, Leaf]] = {"repair": "repair", "maintenance": "maintenance"}
"""Courses that take the node away, and what its devices do meanwhile."""


class Happening(NamedTuple):
    """One turn of one breakdown. Ordered by instant, rank, number."""

    at_s: float
    rank: int
    number: int
    """Of the breakdown, by arrival."""
    turn: Turn
    breakdown: Breakdown

    @property
    def node(self) -> NodeKey:
        """Where."""
        return self.breakdown.pool, self.breakdown.node


class Faults:
    """The time line of all breakdowns. Invariant: of each, the next turn that is known is in it, unless it is over."""

    def __init__(
        self,
        breakdowns: Iterable[Breakdown],
        scheduler: Scheduler,
        lives: Lives,
        *,
        detect_s: float,
        done: Callable[[Sequence[Decision]], None],
    ) -> None:
        """`done` carries decisions out. Raises SpecError for breakdowns that cannot be."""
        nodes = nodes_of(scheduler)
        self._lives = lives
        self._nodes = lives.nodes
        self._detect_s = detect_s
        self._done = done
        self._to_come: list[Happening] = []
        self._announced: dict[NodeKey, list[float]] = {}
        """When nodes will be taken for maintenance, as far as that was said."""
        self._scheduler = scheduler if isinstance(scheduler, Surviving) else None
        for number, breakdown in enumerate(breakdowns):
            _check(breakdown, nodes)
            if breakdown.course in AWAY and self._scheduler is None:
                raise SpecError(
                    f"nodes break, and {type(scheduler).__name__} knows nothing of nodes that do",
                    hint="use a scheduler with `lose` and `regain`, such as InOrder or Easy on Placed",
                )
            announced = breakdown.course == "maintenance" and breakdown.announced_s > 0
            at_s = breakdown.at_s - breakdown.announced_s * announced
            turn: Turn = "announced" if announced else "begins"
            self._to_come.append(Happening(at_s, RANK[turn], number, turn, breakdown))
        heapq.heapify(self._to_come)

    @property
    def next_s(self) -> float:
        """When something happens; infinite: never."""
        return self._to_come[0].at_s if self._to_come else math.inf

    def happen(self, now_s: float, *, before: bool = False) -> int:
        """Everything that does by now, or did before; how much that is."""
        count, by_s = 0, math.nextafter(now_s, -math.inf) if before else now_s
        while self.next_s <= by_s:
            together = [heapq.heappop(self._to_come)]
            while self.next_s <= by_s and self._known(together[-1]) and self._known(self._to_come[0]):
                together.append(heapq.heappop(self._to_come))
            if len(together) > 1:  # nobody moves to a node that goes at the same instant
                for one in together:
                    self._done(self._drain(one.node, now_s, now_s))
            for one in together:
                self._turn(one, now_s)
            count += len(together)
        return count

    def _known(self, happening: Happening) -> bool:
        """Whether it takes the node away, and the scheduler hears of it now."""
        if happening.turn == "begins" and happening.breakdown.course in AWAY:
            return not self._detect_s or happening.breakdown.course == "maintenance"
        return happening.turn == "found"

    def _turn(self, happening: Happening, now_s: float) -> None:
        breakdown, node = happening.breakdown, happening.node
        match happening.turn:
            case "announced":
                self._announced.setdefault(node, []).append(breakdown.at_s)
                self._done(self._drain(node, breakdown.at_s, now_s))
                self._later(happening, "begins", breakdown.at_s)
            case "begins" if breakdown.course in AWAY:
                self._leave(happening, now_s)
            case "begins":
                self._begin(happening, now_s)
            case "found":
                self._nodes.dying.discard(node)
                self._lose(happening, now_s)
            case "back":
                self._back(happening, now_s)
            case "faster":
                _drop(self._nodes.slow, happening)
                self._lives.pace_on(node, now_s=now_s)
            case "noticed":
                _drop(self._nodes.corrupt, happening)
                self._lives.notice(happening.number, now_s=now_s)

    def _drain(self, node: NodeKey, from_s: float, now_s: float) -> Sequence[Decision]:
        if isinstance(self._scheduler, Draining) and node not in self._nodes.away_as:
            return self._scheduler.drain(*node, from_s=from_s, now_s=now_s)
        return ()

    def _begin(self, happening: Happening, now_s: float) -> None:
        """What leaves the node where it is, unless it is away already."""
        breakdown, node, number = happening.breakdown, happening.node, happening.number
        if node in self._nodes.away:
            return
        over_s = max(now_s, breakdown.at_s + breakdown.duration_s)
        match breakdown.course:
            case "in_place":
                self._lives.restart_on(node, now_s=now_s, detect_s=self._detect_s)
            case "slow":
                self._nodes.slow.setdefault(node, {})[number] = breakdown.factor
                self._lives.pace_on(node, now_s=now_s)
                self._later(happening, "faster", over_s)
            case _:
                self._nodes.corrupt.setdefault(node, set()).add(number)
                self._lives.taint_on(node, number, now_s=now_s)
                self._later(happening, "noticed", over_s)

    def _leave(self, happening: Happening, now_s: float) -> None:
        """The node is gone; a fault is found out later, if it takes time to."""
        away = self._nodes.away.setdefault(happening.node, set())
        away.add(happening.number)
        if len(away) > 1:
            self._later(happening, "back", max(now_s, happening.breakdown.at_s + happening.breakdown.duration_s))
        elif self._detect_s and happening.breakdown.course == "repair":
            self._nodes.dying.add(happening.node)
            self._lives.stop_on(happening.node, now_s=now_s)
            self._later(happening, "found", now_s + self._detect_s)
        else:
            self._lose(happening, now_s)

    def _lose(self, happening: Happening, now_s: float) -> None:
        assert self._scheduler is not None
        node, breakdown = happening.node, happening.breakdown
        self._nodes.away_as[node] = AWAY[breakdown.course]
        self._lives.meter.withdraw(node[0], AWAY[breakdown.course])
        self._done(self._scheduler.lose(*node, now_s=now_s))
        left = [life.job.id for life in self._lives.on(node)]
        assert not left, f"node {node} is lost, and jobs {left} are still on it"
        self._later(happening, "back", max(breakdown.at_s + breakdown.duration_s, now_s))

    def _back(self, happening: Happening, now_s: float) -> None:
        """The node is there again once the last thing that kept it away is over."""
        assert self._scheduler is not None
        node = happening.node
        away = self._nodes.away[node]
        away.discard(happening.number)
        if away:
            return
        del self._nodes.away[node]
        self._lives.meter.restore(node[0], self._nodes.away_as.pop(node))
        decisions: list[Decision] = []
        for from_s in self._announced.get(node, ()):
            if from_s > now_s:
                decisions += self._drain(node, from_s, now_s)
        decisions += self._scheduler.regain(*node, now_s=now_s)
        self._done(decisions)

    def _later(self, happening: Happening, turn: Turn, at_s: float) -> None:
        if at_s < math.inf:
            later = Happening(at_s, RANK[turn], happening.number, turn, happening.breakdown)
            heapq.heappush(self._to_come, later)


def _drop(of: dict[NodeKey, dict[int, float]] | dict[NodeKey, set[int]], happening: Happening) -> None:
    """A breakdown no longer makes its node so."""
    one = of[happening.node]
    if isinstance(one, dict):
        del one[happening.number]
    else:
        one.discard(happening.number)
    if not one:
        del of[happening.node]


def _check(breakdown: Breakdown, nodes: Mapping[str, int]) -> None:
    where = f"breakdown of node {breakdown.node} in pool `{breakdown.pool}` at {breakdown.at_s} s"
    if not 0 <= breakdown.node < nodes.get(breakdown.pool, 0):
        known = ", ".join(f"`{name}` of {count}" for name, count in nodes.items()) or "none: devices are only counted"
        raise SpecError(f"{where}: there is no such node", hint=f"pools and their nodes: {known}")
    if not (breakdown.duration_s >= 0 and breakdown.announced_s >= 0 and 0 < breakdown.factor <= 1):
        raise SpecError(
            f"{where}: lasts {breakdown.duration_s} s, announced {breakdown.announced_s} s before, leaves"
            f" {breakdown.factor} of the speed",
            hint="durations from 0, a factor above 0 and up to 1",
        )
