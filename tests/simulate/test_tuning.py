"""Tuning: finds what is there, refuses what is not, says the same every time. And weeks: no look ahead."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.job import Job, JobId
from myriarch.simulate.queueing import Task
from myriarch.simulate.tuning import Choice, Range, Score, Setting, Space, Trial, TuningReport, tune
from myriarch.simulate.workload.arrivals import DAY_S, WEEK_S
from myriarch.simulate.workload.weeks import split_weeks


class Week(Value, frozen=True, kw_only=True):
    name: str
    level: float


def weeks(first: int, last: int) -> list[Week]:
    """Some are ten times as busy as others."""
    return [Week(name=f"week {number}", level=10.0 ** (number % 2)) for number in range(first, last)]


SPACE: Space = {"factor": Range(low=0.01, high=100.0, log=True), "rule": Choice(values=("a", "b"))}
PRESENT: Setting = {"factor": 30.0, "rule": "a"}


def noise(setting: Setting, week: Week) -> float:
    """The same for the same setting and week."""
    entropy = [int.from_bytes(repr((sorted(setting.items()), week.name)).encode()[:64], "little")]
    return float(np.random.default_rng(np.random.SeedSequence(entropy)).normal())


def bowl(setting: Setting, week: Week) -> Score:
    """Best at factor 1 and rule b."""
    distance = math.log10(float(setting["factor"])) ** 2 + (0.5 if setting["rule"] == "a" else 0.0)
    return Score(loss=week.level * math.exp(distance + 0.05 * noise(setting, week)))


def flat(setting: Setting, week: Week) -> Score:
    """Nothing matters."""
    return Score(loss=week.level * math.exp(0.3 * noise(setting, week)))


def tuned(evaluate: Callable[[Setting, Week], Score], **options: Any) -> TuningReport:
    return tune(evaluate, space=SPACE, present=PRESENT, past=weeks(0, 9), held_out=weeks(9, 15), seed=3, **options)


def test_finds_a_better_setting_and_proves_it() -> None:
    report = tuned(bowl)
    assert report.recommended, report.reason
    assert report.found["rule"] == "b"
    assert 0.3 < float(report.found["factor"]) < 3.0
    assert report.held_out.proven
    low, high = report.held_out.gain_low, report.held_out.gain_high
    assert low is not None
    assert high is not None
    assert low < report.held_out.gain < high
    assert report.held_out.weeks == 6
    assert report.trials < 9 * report.tried  # most settings saw a few weeks only


@pytest.mark.parametrize("seed", range(10))
def test_recommends_nothing_where_nothing_matters(seed: int) -> None:
    """At 95 % one in forty is a false alarm: none of these ten is."""
    report = tune(flat, space=SPACE, present=PRESENT, past=weeks(0, 9), held_out=weeks(9, 15), seed=seed)
    assert not report.recommended
    assert "not proven" in report.reason or "no setting was better" in report.reason
    assert report.past.gain >= 0


def test_the_best_there_is_is_kept() -> None:
    report = tune(
        lambda setting, week: Score(loss=1.0 + abs(float(setting["factor"]) - 30.0)),
        space=SPACE,
        present=PRESENT,
        past=weeks(0, 3),
        held_out=weeks(3, 5),
        seed=1,
    )
    assert report.found == PRESENT
    assert not report.recommended


def test_what_does_harm_is_not_chosen() -> None:
    def harmful(setting: Setting, week: Week) -> Score:
        return Score(loss=bowl(setting, week).loss, harm=2.0 if setting["rule"] == "b" else 1.0)

    report = tuned(harmful)
    assert report.found["rule"] == "a"
    assert report.recommended


def test_harm_that_shows_only_later_forbids_it() -> None:
    def later(setting: Setting, week: Week) -> Score:
        harm = 2.0 if setting["rule"] == "b" and int(week.name.split()[1]) >= 9 else 1.0
        return Score(loss=bowl(setting, week).loss, harm=harm)

    report = tuned(later)
    assert not report.recommended
    assert "harm grows by 100.0%" in report.reason


def test_one_held_out_week_proves_nothing() -> None:
    report = tune(bowl, space=SPACE, present=PRESENT, past=weeks(0, 3), held_out=weeks(3, 4), seed=1)
    assert not report.recommended
    assert report.held_out.gain_high is None


def test_same_report_on_threads_and_after_an_interruption() -> None:
    trials: list[Trial] = []
    report = tuned(bowl, observe=trials.append)
    with ThreadPoolExecutor(2) as pool:
        assert tuned(bowl, executor=pool) == report
    again: list[Trial] = []
    assert tuned(bowl, known=trials[: len(trials) // 2], observe=again.append) == report
    assert trials[: len(trials) // 2] + again == trials


@pytest.mark.parametrize(
    ("space", "present", "culprit"),
    [
        (SPACE, {"rule": "a"}, "lacks `factor`"),
        ({}, {}, "0 parameters"),
        ({"factor": Range(low=2.0, high=1.0)}, {"factor": 1.0}, "ranges from 2 to 1"),
        ({"rule": Choice(values=("a",))}, {"rule": "c"}, "is none of"),
    ],
)
def test_what_cannot_be_searched_is_said(space: dict[str, Range | Choice], present: Setting, culprit: str) -> None:
    with pytest.raises(SpecError, match=culprit):
        tune(bowl, space=space, present=present, past=weeks(0, 2), held_out=weeks(2, 3), seed=0)


def test_a_week_is_not_both_past_and_held_out() -> None:
    with pytest.raises(SpecError, match="one name"):
        tune(bowl, space=SPACE, present=PRESENT, past=weeks(0, 3), held_out=weeks(2, 4), seed=0)


def tasks(days: float, *, every_s: float = 6 * 3600.0) -> list[Task]:
    return [
        Task(job=Job(id=JobId(str(at)), submit_s=at * every_s, devices=1, estimate_s=60.0), run_s=60.0)
        for at in range(int(days * DAY_S / every_s))
    ]


def test_the_past_knows_nothing_of_what_came_later() -> None:
    split = split_weeks(tasks(40), past=0.6)
    assert [period.name for period in (*split.past, *split.held_out)] == [f"week {number}" for number in range(1, 6)]
    assert len(split.past) == 3
    assert split.at_s == 3 * WEEK_S
    assert max(task.job.submit_s for period in split.past for task in period.tasks) < split.at_s
    for period in (*split.past, *split.held_out):
        starts = [task.job.submit_s for task in period.of_interest]
        assert len(starts) == 28
        assert starts[0] % WEEK_S == 0
    assert split.held_out[0].first == 8  # two days before it
    assert len(split.held_out[0].tasks) == 8 + 28 + 8


def test_too_short_a_workload_is_said() -> None:
    with pytest.raises(SpecError, match="1 whole weeks"):
        split_weeks(tasks(13))
