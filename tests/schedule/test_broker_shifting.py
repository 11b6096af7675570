"""The shifting broker: what it begins at once, holds, stops and moves; and the program of hours beneath it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.broker_dial import LEAST_JOBS, Dial
from myriarch.schedule.broker_hours import Hours, Lifetimes, Stops, outlook
from myriarch.schedule.broker_market import Market, Offer, Request, Voucher, Window
from myriarch.schedule.broker_shifting import Action, Shifting, Stop, View
from myriarch.spec.fleet import Chip

CHIP = Chip(id="any", rate_flops_per_s={"bf16": 1e14}, memory_bytes=8e10)
HOUR_S = 3600.0
DAY_S = 86_400.0
VALLEY = (0.1,) * 8 + (1.0,) * 16
"""Cheap from midnight to eight."""
STOPS = Stops(save_s=60.0, load_s=300.0, move_s=1800.0)


def view(
    *pools: str, hour: int = 18, energy: object = VALLEY, busy: str = "", vouchers: tuple[Voucher, ...] = ()
) -> View:
    offers = tuple(
        Offer(
            name=name, chip=CHIP, currency="CNY", power_per_device_w=1000.0,
            energy_per_kwh=energy[name] if isinstance(energy, dict) else energy,  # type: ignore[arg-type]
            windows=(Window(start_s=0.0, end_s=5 * DAY_S, devices=8),),
        )
        for name in pools
    )  # fmt: skip
    return View(
        market=Market(
            opens=f"2026-12-01T{hour:02d}:00+08:00",
            horizon_s=5 * DAY_S,
            currency="CNY",
            offers=offers,
            vouchers=vouchers,
        ),
        free={name: [(2 * HOUR_S if name in busy else 0.0, 5 * DAY_S, 8)] for name in pools},
        begins_now=lambda job, pool, without: pool not in busy or bool(without),
    )


def arrive(
    broker: Shifting,
    seen: View,
    name: str = "j",
    *,
    hours: float = 4.0,
    stops: Stops | None = None,
    slowness_per_s: float | None = None,
    now_s: float = 0.0,
) -> tuple[Action, ...]:
    return broker.submit(
        Request(name=name, devices=2),
        seen,
        speed={offer.name: 1.0 for offer in seen.market.offers},
        limit_s=2 * hours * HOUR_S,
        lives=Lifetimes(np.full(100, hours * HOUR_S), most_s=hours * HOUR_S),
        slowness_per_s=1 / (hours * HOUR_S) if slowness_per_s is None else slowness_per_s,
        stops=stops,
        now_s=now_s,
    )


def said(actions: tuple[Action, ...]) -> list[tuple[str, str, str]]:
    return [(type(action).__name__.lower(), action.job, action.pool) for action in actions]


def lasted(broker: Shifting, *, hours: float = 10.0, ran_h: int = 2) -> tuple[Action, ...]:
    """A job of known length, larger than the mean, that has run for two hours from 18 h on: the valley is in four."""
    broker.dial.came(0.0)
    arrive(broker, view("p"), hours=hours, stops=STOPS)
    broker.started("j", "p", now_s=0.0)
    return broker.wake(view("p", hour=18 + ran_h), now_s=ran_h * HOUR_S)


def test_the_promise_decides_whether_to_wait() -> None:
    """Eight hours are left: four of the valley save nine tenths of their price for 0.4 of slowdown."""
    patient, urgent = Shifting(promise=1.0), Shifting(promise=0.0)
    assert said(lasted(urgent)) == []
    assert said(lasted(patient)) == [("stop", "j", "p")]
    patient.stopped("j", now_s=2 * HOUR_S)
    assert said(patient.wake(view("p", hour=23), now_s=5 * HOUR_S)) == []
    assert said(patient.wake(view("p", hour=0), now_s=6 * HOUR_S)) == [("send", "j", "p")]
    patient.check()
    assert patient.dial.spent == pytest.approx(0.4)


def test_a_wait_counts_in_the_end_as_it_was() -> None:
    broker = Shifting(promise=1.0)
    assert said(lasted(broker)) == [("stop", "j", "p")]
    broker.stopped("j", now_s=2 * HOUR_S)
    broker.wake(view("p", hour=0), now_s=6 * HOUR_S)
    broker.started("j", "p", now_s=6 * HOUR_S)
    broker.ended("j", ran_s=2.5 * HOUR_S, now_s=7 * HOUR_S)
    assert broker.dial.spent == pytest.approx(1.6)
    assert not broker.jobs


def test_a_job_that_may_be_short_begins_at_once_and_is_stopped_when_it_has_lasted() -> None:
    """A third of such jobs die within a minute: none is held; one that has run for two hours is another matter."""
    broker = Shifting(promise=1.0)
    runs_s = np.concatenate((np.full(33, 60.0), np.full(67, 10 * HOUR_S)))
    sent = broker.submit(
        Request(name="j", devices=2), view("p", hour=18), speed={"p": 1.0}, limit_s=20 * HOUR_S,
        lives=Lifetimes(runs_s, most_s=10 * HOUR_S), slowness_per_s=0.33 / 60, stops=STOPS, now_s=0.0,
    )  # fmt: skip
    assert said(sent) == [("send", "j", "p")]
    broker.started("j", "p", now_s=0.0)
    stopped = broker.wake(view("p", hour=20), now_s=2 * HOUR_S)
    assert said(stopped) == [("stop", "j", "p")]
    assert "to go on costs" in stopped[0].reason
    broker.check()
    broker.stopped("j", now_s=2 * HOUR_S + 60.0)
    assert broker.wake(view("p", hour=22), now_s=4 * HOUR_S) == ()
    assert said(broker.wake(view("p", hour=0), now_s=6 * HOUR_S)) == [("send", "j", "p")]
    broker.started("j", "p", now_s=6 * HOUR_S)
    assert broker.jobs["j"].age_s(6 * HOUR_S + 300.0) == 2 * HOUR_S
    assert broker.wake(view("p", hour=1), now_s=7 * HOUR_S) == ()


def test_a_job_that_cannot_be_stopped_runs_on() -> None:
    broker = Shifting(promise=0.0)
    arrive(broker, view("p"), hours=10.0)
    broker.started("j", "p", now_s=0.0)
    broker.dial.promise = 10.0
    assert broker.wake(view("p", hour=20), now_s=2 * HOUR_S) == ()


def test_a_running_job_moves_where_it_is_cheaper_when_its_state_is_there() -> None:
    dear, cheap = 1.0, 0.2
    broker = Shifting(promise=0.2)
    arrive(broker, view("p", "q", energy={"p": cheap, "q": dear}), hours=20.0, stops=STOPS)
    broker.started("j", "p", now_s=0.0)
    turned = {"p": dear, "q": cheap}
    assert said(broker.wake(view("p", "q", energy=turned), now_s=HOUR_S)) == [("stop", "j", "p")]
    broker.stopped("j", now_s=HOUR_S + 60.0)
    assert broker.wake(view("p", "q", energy=turned), now_s=HOUR_S + 120.0) == ()  # on the road
    assert said(broker.wake(view("p", "q", energy=turned), now_s=2 * HOUR_S)) == [("send", "j", "q")]


def test_who_finds_no_room_waits_in_every_queue_and_the_first_to_start_it_wins() -> None:
    broker = Shifting(promise=0.0)
    both = {"p": 1.0, "q": 0.8}
    assert said(arrive(broker, view("p", "q", busy="pq", energy=both))) == [("send", "j", "q"), ("send", "j", "p")]
    assert broker.wake(view("p", "q", busy="pq", energy=both), now_s=60.0) == ()
    broker.jobs["j"].speed = {"p": 1.0, "q": 1.0, "r": 1.0}
    joins = broker.wake(view("p", "q", "r", busy="pq", energy=1.0), now_s=120.0)
    assert said(joins) == [("send", "j", "r")]
    broker.check()
    assert said(broker.started("j", "r", now_s=120.0)) == [("recall", "j", "q"), ("recall", "j", "p")]
    # The recall came too late: the copy that began second is called off, and the first one is the job.
    assert said(broker.started("j", "q", now_s=121.0)) == [("recall", "j", "q")]
    broker.check()
    assert broker.jobs["j"].pool == "r"
    assert broker.dial.spent == 0.0


def test_nobody_waits_for_a_price_before_it_begins() -> None:
    """A job of known length would gain from waiting for the valley, and would be made to if it had begun."""
    for stops in (None, STOPS):
        broker = Shifting(promise=100.0)
        assert said(arrive(broker, view("p"), hours=10.0, stops=stops)) == [("send", "j", "p")]
        assert broker.dial.spent == 0.0


def test_an_old_job_makes_room_for_one_that_loses_more_by_waiting() -> None:
    full = view("p", busy="p", energy=1.0)
    for stops, first_hours, expected in (
        (STOPS, 10.0, [("stop", "old", "p"), ("send", "new", "p")]),
        (None, 10.0, [("send", "new", "p")]),
        (STOPS, 1.0, [("send", "new", "p")]),
    ):
        broker = Shifting(promise=0.1)
        arrive(broker, view("p", energy=1.0), "old", hours=first_hours, stops=stops)
        broker.started("old", "p", now_s=0.0)
        assert said(arrive(broker, full, "new", hours=2.0, now_s=HOUR_S / 2)) == expected
        broker.check()
        assert broker.wake(full, now_s=HOUR_S) == ()  # once is enough


def test_several_make_room_only_if_all_of_them_lose_less() -> None:
    """Either has half of the devices that are wanted."""
    for others, stopped in ((("a",), []), (("a", "b"), ["a", "b"]), (("a", "b", "c", "d", "e"), ["a", "b"])):
        broker = Shifting(promise=0.1)
        for name in others:
            arrive(broker, view("p", energy=1.0), name, hours=10.0, stops=STOPS)
            broker.started(name, "p", now_s=0.0)
        full = dataclasses.replace(view("p", busy="p"), begins_now=lambda job, pool, without: len(without) == 2)
        actions = broker.submit(
            Request(name="new", devices=4), full, speed={"p": 1.0}, limit_s=HOUR_S, lives=Lifetimes(np.full(9, HOUR_S)),
            slowness_per_s=1 / HOUR_S, stops=None, now_s=HOUR_S,
        )  # fmt: skip
        assert [action.job for action in actions if isinstance(action, Stop)] == stopped


def test_a_pool_is_chosen_for_the_hours_that_a_job_is_likely_to_run() -> None:
    """One in ten runs for 30 hours, and most of the money with it: four cheap hours are not what it will pay."""
    prices = {"p": tuple(0.1 if 18 <= hour < 22 else 1.0 for hour in range(24)), "q": 0.3}
    runs_s = np.concatenate((np.full(90, 360.0), np.full(10, 30 * HOUR_S)))
    for lives, pool in ((Lifetimes(runs_s, most_s=30 * HOUR_S), "q"), (Lifetimes(np.full(100, 3 * HOUR_S)), "p")):
        broker = Shifting(promise=0.0)
        sent = broker.submit(
            Request(name="j", devices=2), view("p", "q", energy=prices), speed={"p": 1.0, "q": 1.0},
            limit_s=30 * HOUR_S, lives=lives, slowness_per_s=1e-3, stops=None, now_s=0.0,
        )  # fmt: skip
        assert said(sent) == [("send", "j", pool)]


def test_a_voucher_draws_jobs_while_it_lasts() -> None:
    voucher = Voucher(
        name="v",
        currency="CNY",
        share=0.5,
        valid_from="2026-12-01T00:00",
        valid_until="2026-12-03T00:00",
        offers=("q",),
    )
    broker = Shifting(promise=0.0)
    energy = {"p": 0.8, "q": 1.0}
    assert said(arrive(broker, view("p", "q", energy=energy), "a")) == [("send", "a", "p")]
    assert said(arrive(broker, view("p", "q", energy=energy, vouchers=(voucher,)), "b")) == [("send", "b", "q")]


def test_wrong_use() -> None:
    broker = Shifting(promise=0.1)
    arrive(broker, view("p"))
    with pytest.raises(SpecError, match="is open already"):
        arrive(broker, view("p"))
    with pytest.raises(SpecError, match="in no pool"):
        broker.submit(
            Request(name="k", devices=1), view("p"), speed={"q": 1.0}, limit_s=1.0, lives=Lifetimes(np.ones(1)),
            slowness_per_s=1.0, stops=None, now_s=0.0,
        )  # fmt: skip
    with pytest.raises(SpecError, match="no slowdown"):
        Dial(promise=-0.1)
    with pytest.raises(SpecError, match="ascending"):
        Lifetimes(np.array([2.0, 1.0]))


def test_slowdown_gets_dearer_as_the_promise_is_used_up() -> None:
    dial = Dial(promise=0.1)
    for _ in range(LEAST_JOBS):
        dial.came(7.0)
    prices = []
    for _ in range(5):
        prices.append(dial.price)
        dial.waited(0.5)
    assert prices == sorted(prices)
    assert prices[3] == pytest.approx(7.0)
    assert dial.price == math.inf


def test_lifetimes() -> None:
    lives = Lifetimes(np.array([100.0, 200.0, 400.0]), most_s=500.0)
    ages = np.array([0.0, 150.0, 450.0, 1000.0])
    assert lives.alive(ages)[0] == 1.0
    assert (np.diff(lives.alive(ages)) < 0).all()
    assert lives.left_s(ages)[1] == pytest.approx((200.0 + 489.2) / 2 - 150.0, rel=0.01)
    assert lives.left_s(ages)[3] == 1000.0
    assert lives.slowness_per_s(ages)[0] == pytest.approx((1 / 100 + 1 / 200 + 1 / 489.2) / 3, rel=0.01)
    assert lives.slowness_per_s(ages)[3] == 0.5 / 1000


def brute(prices: list[list[float]], *, left: int, wait: float) -> float:
    """The least cost of so many hours of certain work, by trying every way: each hour in a pool, or none.

    A stop and a load take a tenth of an hour each; the last hour is used by half, as of jobs that end anywhere in it.
    """

    def cheapest(hour: int, where: int | None, todo: int) -> float:
        if todo == 0:
            return 0.0
        if hour == len(prices[0]):
            return math.inf
        leave = 0.0 if where is None else 0.1 * (prices[where][hour] + wait)
        ways = [leave + wait + cheapest(hour + 1, None, todo)]
        for pool, row in enumerate(prices):
            enter = 0.0 if pool == where else leave + 0.1 * (row[hour] + wait)
            ways.append(enter + row[hour] * (0.5 if todo == 1 else 1.0) + cheapest(hour + 1, pool, todo - 1))
        return min(ways)

    return cheapest(0, 0, left)


@settings(max_examples=30)
@given(
    st.integers(1, 2).flatmap(
        lambda pools: st.lists(
            st.lists(st.integers(1, 20).map(float), min_size=5, max_size=5), min_size=pools, max_size=pools
        )
    ),
    st.integers(1, 3),
    st.integers(0, 4).map(float),
)
def test_certain_jobs_cost_as_little_as_can_be(prices: list[list[float]], left: int, wait: float) -> None:
    age_s = 10 * HOUR_S
    run_s = age_s + left * HOUR_S
    price = np.array([[*row, 25.0, 25.0, 25.0] for row in prices])  # dear after what is enumerated
    found = outlook(
        Hours(
            edges_s=HOUR_S * np.arange(9.0),
            price=price,
            room=np.ones(price.shape, dtype=np.bool_),
            speed=np.ones(len(price)),
        ),
        lives=Lifetimes(np.full(1000, run_s), most_s=run_s),
        age_s=age_s,
        price_per_slowdown=wait * run_s / HOUR_S,
        stops=Stops(save_s=360.0, load_s=360.0, move_s=0.0),
        at=0,
    )
    best = min(found.stay, found.wait, float(found.begin.min()))
    assert best == pytest.approx(brute([row.tolist() for row in price], left=left, wait=wait), abs=0.1)


def test_what_a_job_would_cost_beyond_its_limit_is_of_no_weight() -> None:
    """Forty minutes before it, and a quarter of an hour before the slot is over: not even an hour's price, and load."""
    lives = Lifetimes(np.full(100, 80 * HOUR_S), most_s=80 * HOUR_S)
    edges_s = np.concatenate(([0.0], 900.0 + HOUR_S * np.arange(36)))
    found = outlook(
        Hours(
            edges_s=edges_s,
            price=np.diff(edges_s)[None] / HOUR_S,
            room=np.ones((1, 36), dtype=np.bool_),
            speed=np.ones(1),
        ),
        lives=lives,
        age_s=80 * HOUR_S - 2400.0,
        price_per_slowdown=1.0,
        stops=STOPS,
        at=None,
    )
    assert 2400 / 3600 <= found.begin[0, 0] < 1.0
