"""Parameters of a policy, searched on past weeks and proven on weeks that the search never saw.

    search   so many settings are drawn at random, the present one among them, and judged on a few past weeks; the best
             third goes on to three times the weeks, and so on to all of them (successive halving: Jamieson and
             Talwalkar, AISTATS 2016). Around the best one a few more are drawn, closer and closer.
    proof    the winner and the present setting are run on the held-out weeks. The gain of a week is the logarithm of
             the ratio of their losses, so that a calm week counts as much as a busy one; its mean over weeks has an
             interval of Student's t, paired by week. One comparison is made, so nothing has to be corrected for.

Nothing is recommended whose interval does not lie above zero, nor what does more harm (to fairness, to deadlines) than
is allowed. What a loss is, and how a period is simulated, is the caller's: `evaluate(setting, period)`. It is called on
any executor, and what it found before an interruption can be given back as `known`. Equal seeds give equal reports, on
any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Final, Generic, Protocol, TypeVar

import msgspec
import numpy as np

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.simulate.sweep_statistics import CONFIDENCE, estimate

Scalar = float | int | str | bool
Setting = Mapping[str, Scalar]

KEPT: Final = 3
"""One in so many goes on to so many times the weeks (the eta of successive halving; 3 and 4 are usual)."""
CANDIDATES: Final = 27
"""Three rungs."""
REFINEMENTS: Final = 9
SPREAD: Final = 0.2
"""Standard deviation of the first refinement, as a share of a range; the last one's is a quarter of it."""
HARM_MOST: Final = 1.05
"""Harm may grow by so much: 5 %, our choice."""


class Range(Value, frozen=True, kw_only=True):
    """Numbers between two ends."""

    low: float
    high: float
    log: bool = False
    """Evenly on a logarithmic scale."""
    whole: bool = False

    def at(self, place: float) -> Scalar:
        """The number at a place between 0 and 1."""
        if self.log:
            value = self.low * (self.high / self.low) ** place
        else:
            value = self.low + (self.high - self.low) * place
        return round(value) if self.whole else float(f"{value:.4g}")

    def place(self, value: Scalar) -> float:
        """Where a number lies, held between 0 and 1."""
        number = float(value)
        if self.log:
            found = math.log(max(number, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            found = (number - self.low) / (self.high - self.low)
        return min(max(found, 0.0), 1.0)


class Choice(Value, frozen=True, kw_only=True):
    """One of a few values."""

    values: tuple[Scalar, ...]

    def at(self, place: float) -> Scalar:
        """The value at a place between 0 and 1."""
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]

    def place(self, value: Scalar) -> float:
        """The middle of a value's place."""
        return (self.values.index(value) + 0.5) / len(self.values)


Space = Mapping[str, Range | Choice]


class Score(Value, frozen=True, kw_only=True):
    """What came of a setting in a period. Both above zero."""

    loss: float
    """What is to be small: a mean completion time."""
    harm: float = 1.0
    """What must not grow with it: the reciprocal of a fairness, a share of missed deadlines."""


class Trial(Value, frozen=True, kw_only=True):
    """A setting in a period, as it can be kept for another call."""

    setting: dict[str, Scalar]
    period: str
    score: Score


class Gain(Value, frozen=True, kw_only=True):
    """Mean over weeks of ln(loss of the present setting / loss of the new one), and of the harms likewise."""

    weeks: int
    gain: float
    gain_low: float | None
    gain_high: float | None
    """The interval; None with one week: nobody knows."""
    harm: float
    """Above 0: the new setting does more harm."""
    confidence: float

    @property
    def saved(self) -> float:
        """Share of the loss that is gone, on the geometric mean."""
        return 1.0 - math.exp(-self.gain)

    @property
    def proven(self) -> bool:
        """Whether the interval lies above zero."""
        return self.gain_low is not None and self.gain_low > 0


class TuningReport(Value, frozen=True, kw_only=True):
    """What the search found, and whether to use it."""

    recommended: bool
    reason: str
    present: dict[str, Scalar]
    found: dict[str, Scalar]
    """The best setting of the past, recommended or not; the present one when nothing was better."""
    past: Gain
    """Of `found`, where it was searched: what is left of it on held-out weeks is below."""
    held_out: Gain
    by_week: dict[str, tuple[float, float]]
    """Losses of the present setting and of `found` in each held-out week."""
    tried: int
    """Settings."""
    trials: int
    """Settings times periods."""


class Stretch(Protocol):
    """What a setting is judged on; `simulate.workload.weeks.Period` is one."""

    @property
    def name(self) -> str: ...


P = TypeVar("P", bound=Stretch)


def tune(
    evaluate: Callable[[Setting, P], Score],
    *,
    space: Space,
    present: Setting,
    past: Sequence[P],
    held_out: Sequence[P],
    seed: int,
    candidates: int = CANDIDATES,
    refinements: int = REFINEMENTS,
    harm_most: float = HARM_MOST,
    confidence: float = CONFIDENCE,
    executor: Executor | None = None,
    known: Iterable[Trial] = (),
    observe: Callable[[Trial], None] | None = None,
) -> TuningReport:
    """Search `space` on `past`, prove the gain over `present` on `held_out`.

    evaluate: with a process pool, something that can be pickled. known: trials of an earlier call, which are not run
    again. observe: told of each new trial, in the order in which they were asked for.
    """
    _check(space, present, past, held_out, candidates)
    book = _Book(evaluate, executor, known, observe)
    draw = np.random.default_rng(np.random.SeedSequence(seed))
    start = {name: present[name] for name in space}
    drawn = [start, *(_drawn(space, draw) for _ in range(candidates - 1))]
    order = [past[at] for at in draw.permutation(len(past))]
    best = _halved(book, drawn, start, order, harm_most)
    for number in range(refinements):
        spread = SPREAD * 0.25 ** (number / max(refinements - 1, 1))
        near = _near(space, best, draw, spread)
        best = _best(book.scores([start, best, near], order), [start, best, near], harm_most)
    return _report(book, start, best, past, held_out, harm_most, confidence)


def _check(space: Space, present: Setting, past: Sequence[Stretch], held_out: Sequence[Stretch], many: int) -> None:
    if missing := [name for name in space if name not in present]:
        raise SpecError(f"the present setting lacks `{'`, `'.join(missing)}`", hint="say what is used now")
    if not space or not past or not held_out or many < 2:
        raise SpecError(
            f"{len(space)} parameters, {len(past)} past and {len(held_out)} held-out weeks, {many} candidates",
            hint="at least one parameter, a week on either side and two candidates",
        )
    names = [each.name for each in (*past, *held_out)]
    if len(set(names)) < len(names):
        raise SpecError("two periods have one name", hint="no week may be both past and held out")
    for name, each in space.items():
        if isinstance(each, Range) and not (each.low < each.high and (each.low > 0 or not each.log)):
            raise SpecError(
                f"`{name}` ranges from {each.low:g} to {each.high:g}", hint="low < high; above 0 with `log`"
            )
        if isinstance(each, Choice) and present[name] not in each.values:
            raise SpecError(f"`{name}: {present[name]}` is none of {each.values}", hint="the present value is one")


class _Book(Generic[P]):
    """Scores that are known; others are worked out. Invariant: no setting is run twice in one period."""

    def __init__(
        self,
        evaluate: Callable[[Setting, P], Score],
        executor: Executor | None,
        known: Iterable[Trial],
        observe: Callable[[Trial], None] | None,
    ) -> None:
        self._evaluate = evaluate
        self._executor = executor
        self._observe = observe
        self._scores = {(_key(trial.setting), trial.period): trial.score for trial in known}
        self.used: set[tuple[bytes, str]] = set()

    def scores(self, settings: Sequence[Setting], periods: Sequence[P]) -> list[list[Score]]:
        """[setting][period]."""
        wanted = {(_key(setting), period.name): (setting, period) for setting in settings for period in periods}
        new = [pair for key, pair in wanted.items() if key not in self._scores]
        run = map if self._executor is None else self._executor.map
        for (setting, period), score in zip(
            new, run(self._evaluate, *zip(*new, strict=True)) if new else (), strict=True
        ):
            if not (score.loss > 0 and score.harm > 0 and math.isfinite(score.loss)):
                raise SpecError(f"{dict(setting)} in {period.name} has the score {score}", hint="losses are above zero")
            self._scores[_key(setting), period.name] = score
            if self._observe is not None:
                self._observe(Trial(setting=dict(setting), period=period.name, score=score))
        self.used |= wanted.keys()
        return [[self._scores[_key(setting), period.name] for period in periods] for setting in settings]


def _key(setting: Setting) -> bytes:
    return msgspec.json.encode(dict(sorted(setting.items())))


def _drawn(space: Space, draw: np.random.Generator) -> Setting:
    return {name: each.at(float(draw.random())) for name, each in space.items()}


def _near(space: Space, best: Setting, draw: np.random.Generator, spread: float) -> Setting:
    """Reflected at the ends of each range, so that they are not favoured. A choice is drawn anew one time in four."""
    near: dict[str, Scalar] = {}
    for name, each in space.items():
        step, anew = float(draw.normal()), float(draw.random())
        if isinstance(each, Choice):
            near[name] = each.at(anew * 4) if anew < 0.25 else best[name]
        else:
            place = abs(each.place(best[name]) + spread * step) % 2.0
            near[name] = each.at(min(place, 2.0 - place))
    return near


def _halved(
    book: _Book[P], settings: Sequence[Setting], start: Setting, order: Sequence[P], harm_most: float
) -> Setting:
    """The best of all weeks, of those that were among the best of fewer."""
    left = list(settings)
    rungs = max(math.ceil(math.log(len(left)) / math.log(KEPT) - 1e-9), 1)
    for rung in range(rungs):
        weeks = order[: max(round(len(order) / KEPT ** (rungs - 1 - rung)), 1)]
        ranked = _ranked(book.scores([start, *left], weeks), [start, *left], harm_most)
        left = ranked[: max(len(left) // KEPT, 1)]
    return left[0]


def _ranked(scores: Sequence[Sequence[Score]], settings: Sequence[Setting], harm_most: float) -> list[Setting]:
    """By mean loss against the first setting; those that do too much harm last. Equal ones in the order they came."""
    base = scores[0]
    keyed = []
    for number, (setting, row) in enumerate(zip(settings, scores, strict=True)):
        loss = sum(math.log(one.loss / other.loss) for one, other in zip(row, base, strict=True)) / len(base)
        harm = sum(math.log(one.harm / other.harm) for one, other in zip(row, base, strict=True)) / len(base)
        keyed.append((harm > math.log(harm_most), loss, number, setting))
    keyed.sort(key=lambda each: each[:3])
    unique = {_key(setting): setting for *_, setting in reversed(keyed)}
    return [unique.pop(_key(setting)) for *_, setting in keyed if _key(setting) in unique]


def _best(scores: Sequence[Sequence[Score]], settings: Sequence[Setting], harm_most: float) -> Setting:
    return _ranked(scores, settings, harm_most)[0]


def _report(
    book: _Book[P],
    start: Setting,
    best: Setting,
    past: Sequence[P],
    held_out: Sequence[P],
    harm_most: float,
    confidence: float,
) -> TuningReport:
    before = _gain(*book.scores([start, best], past), confidence=confidence)
    rows = book.scores([start, best], held_out)
    after = _gain(*rows, confidence=confidence)
    recommended, reason = _verdict(start, best, after, harm_most)
    return TuningReport(
        recommended=recommended,
        reason=reason,
        present=dict(start),
        found=dict(best),
        past=before,
        held_out=after,
        by_week={period.name: (one.loss, other.loss) for period, one, other in zip(held_out, *rows, strict=True)},
        tried=len({setting for setting, _ in book.used}),
        trials=len(book.used),
    )


def _gain(old: Sequence[Score], new: Sequence[Score], *, confidence: float) -> Gain:
    gains = estimate(
        [math.log(one.loss / other.loss) for one, other in zip(old, new, strict=True)], confidence=confidence
    )
    half = gains.half_width
    return Gain(
        weeks=len(old),
        gain=gains.mean,
        gain_low=None if half is None else gains.mean - half,
        gain_high=None if half is None else gains.mean + half,
        harm=sum(math.log(other.harm / one.harm) for one, other in zip(old, new, strict=True)) / len(old),
        confidence=confidence,
    )


def _verdict(start: Setting, best: Setting, gain: Gain, harm_most: float) -> tuple[bool, str]:
    if _key(start) == _key(best):
        return False, "no setting was better than the present one on past weeks"
    interval = (
        f"loss {-gain.saved:+.1%} on {gain.weeks} held-out periods, "
        f"{math.expm1(-gain.gain_high):+.1%} to {math.expm1(-gain.gain_low):+.1%} at {gain.confidence:.0%}"
        if gain.gain_low is not None and gain.gain_high is not None
        else f"loss {-gain.saved:+.1%} on one held-out period, which proves nothing"
    )
    if not gain.proven:
        return False, f"not proven: {interval}"
    if gain.harm > math.log(harm_most):
        return False, f"does harm: {interval}, but harm grows by {math.exp(gain.harm) - 1:.1%}"
    return True, interval
