"""Gittins' index: its known special cases, and distributions that learn."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.decision import Placement, Preempt, Start
from myriarch.schedule.gittins import Gittins, expected_left_s, index_s
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.lengths import BINS, EDGES_S, MIDDLES_S, Floats, Lengths, bin_of, of_trainings
from myriarch.schedule.placed import Placed
from myriarch.schedule.ranked import Ranked
from myriarch.schedule.standing import Standing
from myriarch.schedule.worth import FREE_OF_CHARGE
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.queueing import Task


def job(name: str = "a", *, devices: int = 1, estimate_s: float = 1e7, user: str = "u", submit_s: float = 0.0) -> Job:
    return Job(id=JobId(name), submit_s=submit_s, devices=devices, estimate_s=estimate_s, user=user, preemptible=True)


def point(at: int) -> Floats:
    mass = np.zeros(BINS)
    mass[at] = 1.0
    return mass


def test_known_run_times_rank_by_what_is_left() -> None:
    index = index_s(point(20))
    assert index[0] == pytest.approx(MIDDLES_S[20])
    ages_s = np.concatenate(([0.0], MIDDLES_S[:-1]))
    assert index[:21] == pytest.approx(MIDDLES_S[20] - ages_s[:21])


def test_a_falling_hazard_ranks_by_age() -> None:
    """Pareto: those that lasted long last long, so the youngest first, as least attained service has it."""
    tail = EDGES_S**-0.7
    mass = tail[:-1] - tail[1:]
    mass /= mass.sum()
    index = index_s(mass)[1:40]  # the first bin begins at 0, the others at their edges
    assert (np.diff(index) > 0).all()


def test_a_rising_hazard_ranks_by_what_is_left() -> None:
    """Uniform: the oldest first, until none is left."""
    mass = np.diff(np.minimum(EDGES_S, 4096.0)) / (4096.0 - 1.0)
    index = index_s(mass)[:23]
    assert (np.diff(index) < 0).all()
    assert index == pytest.approx(expected_left_s(mass)[:23], rel=0.35)


def test_memoryless_run_times_all_rank_alike() -> None:
    """Exponential with mean 1 h: as far as bins go, whose middles are up to 19 % from their ends."""
    mass = np.exp(-EDGES_S[:-1] / 3600.0) - np.exp(-EDGES_S[1:] / 3600.0)
    mass /= mass.sum()
    index = index_s(mass)[:22]
    assert index == pytest.approx(np.full(22, 3600.0), rel=0.25)


@given(
    st.lists(st.floats(0.0, 1.0), min_size=BINS, max_size=BINS),
    st.sampled_from([0.0, 600.0]),
    st.sampled_from([0.0, 7200.0]),
)
def test_the_index_is_the_least_over_all_ends(weights: list[float], switch_s: float, least_s: float) -> None:
    """Over those that leave a start its time; whoever is stopped costs a stop."""
    mass = np.array(weights) + 1e-6
    mass /= mass.sum()
    index = index_s(mass, switch_s=switch_s, least_s=least_s)
    steps_s = np.diff(MIDDLES_S, prepend=0.0)
    for age in (0, 7, 30, BINS - 1):
        begin_s = 0.0 if age == 0 else float(EDGES_S[age])
        found, spent_s, ended = math.inf, 0.0, 0.0
        for end in range(age, BINS):
            spent_s += float(mass[end:].sum()) * float(steps_s[end])
            ended += float(mass[end])
            if EDGES_S[end + 1] >= begin_s + least_s or end == BINS - 1:
                found = min(found, (spent_s + switch_s * float(mass[end + 1 :].sum())) / ended)
        assert index[age] == pytest.approx(found, rel=1e-6)


class Either:
    """Users `long`: a minute or a day, as likely; all others a minute."""

    def distribution(self, job: Job) -> Floats:
        return 0.5 * (point(bin_of(60.0)) + point(bin_of(86_400.0))) if job.user == "long" else point(bin_of(60.0))

    def learn(self, job: Job, run_s: float) -> None:
        """It knows."""


@pytest.mark.parametrize("spell", [None, 0.0, 12.0])
def test_where_stops_cost_time_a_start_is_not_ranked_as_a_try(spell: float | None) -> None:
    """A minute's try costs some two minutes for each that ends. Where two hours must follow, that is not to be had."""
    ranking = Gittins(Either(), spell=spell)
    standing = Standing(msgspec.structs.replace(job(user="long"), save_s=300.0, restart_s=300.0), 0, 0.0)
    ranking.submitted(standing, now_s=0.0)
    waiting = ranking.course(standing, now_s=0.0).rank
    standing.start(Placement(pool="p", nodes=(0,), devices_per_node=1), now_s=0.0)
    running = ranking.course(standing, now_s=0.0).rank
    assert ranking.spent_s(standing, now_s=0.0) == waiting
    tried_s = 2 * float(MIDDLES_S[bin_of(60.0)])
    if spell is None:
        assert waiting == running == pytest.approx(tried_s)
    else:
        assert running == pytest.approx(tried_s + 600.0)  # half of them are stopped, and half end
        half_s = tried_s / 2  # what those take that end, for each of whom another runs for as long as must be
        assert waiting == pytest.approx(half_s + max(spell * 600.0, half_s) + 600.0, rel=0.1)


def test_who_has_lasted_is_expected_to_last() -> None:
    """At its start a day or a minute made half a day. Shortly before half a day is over it is known that half a day
    more is to come: a job of a minute does not wait for that, though stopping costs ten minutes."""
    ranked = Ranked(Placed([PoolLayout(name="p", nodes=1, devices_per_node=1)]), Gittins(Either(), spell=1.0))
    first = msgspec.structs.replace(job("a", user="long"), save_s=300.0, restart_s=300.0)
    (start,) = ranked.submit(first, now_s=0.0)
    assert isinstance(start, Start)
    assert start.until_s == pytest.approx(86_400.0 / 2, rel=0.2)
    ranked.wake(now_s=3600.0)
    decisions = ranked.submit(job("b", submit_s=start.until_s - 100.0), now_s=start.until_s - 100.0)
    assert [type(one) for one in decisions] == [Preempt, Start]
    ranked.check()


@given(st.lists(st.tuples(st.floats(0.1, 1e9), st.sampled_from(["", "u", "v"]), st.integers(1, 64)), max_size=60))
def test_distributions_are_distributions(ended: list[tuple[float, str, int]]) -> None:
    lengths = Lengths(memory=20.0)
    for run_s, user, devices in ended:
        lengths.learn(job(user=user, devices=devices), run_s)
        lengths.check()
    for user in ("", "u", "w"):
        mass = lengths.distribution(job(user=user, estimate_s=3600.0))
        assert mass.sum() == pytest.approx(1.0)
        assert (mass >= 0).all()
        assert not mass[bin_of(3600.0) + 1 :].any()


def test_a_user_who_repeats_is_believed_more_than_all_others() -> None:
    lengths = Lengths()
    for _ in range(100):
        lengths.learn(job(user="v"), 10.0)
        lengths.learn(job(user="u"), 10_000.0)
    assert lengths.distribution(job(user="u"))[bin_of(10_000.0)] > 0.6
    assert lengths.distribution(job(user="v"))[bin_of(10.0)] > 0.6
    assert 0.3 < lengths.distribution(job(user="w"))[bin_of(10.0)] < 0.6


def test_good_estimates_are_believed_of_those_whom_nobody_saw_before() -> None:
    exact, vain = Lengths(keys=of_trainings), Lengths(keys=of_trainings)
    draw = np.random.default_rng(1)
    for run_s in draw.uniform(100.0, 10_000.0, 100).tolist():
        exact.learn(job(estimate_s=run_s), run_s)
        vain.learn(job(estimate_s=50_000.0), run_s)
    asked = job(estimate_s=80_000.0)
    assert exact.distribution(asked)[bin_of(80_000.0)] > 0.5
    assert vain.distribution(asked)[: bin_of(20_000.0)].sum() > 0.8
    exact.check()


def test_ranks_move_only_when_a_bin_is_over() -> None:
    lengths = Lengths()
    ranking = Gittins(lengths)
    standing = Standing(job(devices=4), 0, 0.0)
    ranking.submitted(standing, now_s=0.0)
    waiting = ranking.course(standing, now_s=0.0)
    assert math.isinf(waiting.until_s)
    standing.start(Placement(pool="p", nodes=(0,), devices_per_node=4), now_s=100.0)
    begun = ranking.course(standing, now_s=100.0)
    assert begun.rank == waiting.rank
    later = ranking.course(standing, now_s=begun.until_s)
    assert later.until_s > begun.until_s
    assert later.until_s == pytest.approx(100.0 + EDGES_S[2])


@pytest.mark.parametrize(("margin", "exponent"), [(-0.1, 1.0), (0.1, 3.0)])
def test_bad_parameters_are_said(margin: float, exponent: float) -> None:
    with pytest.raises(SpecError, match="margin"):
        Gittins(Lengths(), margin=margin, exponent=exponent)


def test_short_jobs_of_a_known_user_pass_long_ones_of_another() -> None:
    """Each submits again and again on one busy node; after a while it is known whose jobs are short."""
    tasks = [
        Task(
            job=job(f"{user}{number}", devices=8, user=user, submit_s=number * 1200.0),
            run_s=60.0 if user == "short" else 1000.0,
        )
        for number in range(60)
        for user in ("long", "short")
    ]
    placed = Placed([PoolLayout(name="p", nodes=1, devices_per_node=8)])
    outcome = simulate_cluster(tasks, Ranked(placed, Gittins(Lengths()), worth=FREE_OF_CHARGE), check=True)
    taken_s = {user: outcome.completion_s[60 + offset :: 2] for offset, user in enumerate(("long", "short"))}
    assert taken_s["short"].max() == 60.0
    assert taken_s["long"].min() == 1060.0
