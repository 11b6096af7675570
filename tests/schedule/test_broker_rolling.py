"""The rolling broker: what it sends at once, what it holds for a price, and what it moves."""

from __future__ import annotations

import math

import msgspec
import pytest

from myriarch.errors import SpecError
from myriarch.schedule.broker_market import Market, Offer, Request, Window
from myriarch.schedule.broker_rolling import Action, Recall, Rolling, Send
from myriarch.schedule.calendar import instant_s, instant_text
from myriarch.schedule.durations_slowness import Slowness, slowness_per_s
from myriarch.spec.fleet import Chip

CHIP = Chip(id="any", rate_flops_per_s={"bf16": 1e14}, memory_bytes=8e10)
HOUR_S = 3600.0
DAY_S = 86_400.0
VALLEY = (0.1,) * 8 + (1.0,) * 16
"""Cheap from midnight to eight."""


def pool(name: str, *windows: tuple[float, float, int], energy: object = 1.0) -> Offer:
    free = windows or ((0.0, 3 * DAY_S, 8),)
    return Offer(
        name=name, chip=CHIP, currency="CNY", energy_per_kwh=energy, power_per_device_w=1000.0,  # type: ignore[arg-type]
        windows=tuple(Window(start_s=start, end_s=end, devices=devices) for start, end, devices in free),
    )  # fmt: skip


def market(*offers: Offer, hour: int = 18) -> Market:
    return Market(
        opens=f"2026-12-01T{hour:02d}:00+08:00", horizon_s=3 * DAY_S, currency="CNY", offers=offers
    )  # fmt: skip


def request(name: str = "j", *, hours: float = 4.0, devices: int = 2, pools: str = "pq") -> Request:
    return Request(name=name, devices=devices, device_hours=dict.fromkeys(pools, hours * devices))


def said(actions: tuple[Action, ...]) -> list[tuple[str, str, str]]:
    return [("send" if isinstance(action, Send) else "recall", action.job, action.pool) for action in actions]


def test_what_waiting_costs_decides_whether_to_wait() -> None:
    """Four hours from 18 h on, with the valley six hours away: it saves 7.2 of 8."""
    where = market(pool("p", energy=VALLEY))
    patient, urgent = (Rolling(price_per_slowdown=price) for price in (1.0, 10.0))
    for broker in (patient, urgent):
        sent = broker.submit(request(pools="p"), where, slowness_per_s=1 / (4 * HOUR_S), now_s=100.0)
        assert said(sent) == ([("send", "j", "p")] if broker is urgent else [])
        broker.check()
    assert patient.wake_s == 100.0 + 6 * HOUR_S
    assert patient.due(now_s=5 * HOUR_S) == ()
    assert said(patient.due(now_s=100.0 + 6 * HOUR_S)) == [("send", "j", "p")]
    assert patient.wake_s == math.inf


def test_who_waits_for_devices_waits_in_the_queue() -> None:
    busy = market(pool("p", (2 * HOUR_S, 3 * DAY_S, 8)))
    broker = Rolling(price_per_slowdown=1.0)
    sent = broker.submit(request(pools="p"), busy, slowness_per_s=1e-4, now_s=0.0)
    assert said(sent) == [("send", "j", "p")]


def test_plans_of_others_are_kept_free() -> None:
    """The first takes all of the cheap pool; the second, which arrives later, does not plan with it."""
    where = market(pool("p", energy=0.1), pool("q", energy=0.3))
    broker = Rolling(price_per_slowdown=1e3)
    assert said(broker.submit(request("a", devices=8), where, slowness_per_s=1e-4, now_s=0.0)) == [("send", "a", "p")]
    assert said(broker.submit(request("b", devices=8), where, slowness_per_s=1e-4, now_s=1.0)) == [("send", "b", "q")]
    broker.started("a")
    assert list(broker.open) == ["b"]


def test_a_batch_finds_what_arrivals_could_not() -> None:
    """`a` took the only pool that `b` can use; nothing has started, so they change places."""
    where = market(pool("p", energy=0.10), pool("q", energy=0.11))
    broker = Rolling(price_per_slowdown=100.0)
    broker.submit(request("a", devices=8), where, slowness_per_s=1e-4, now_s=0.0)
    broker.submit(request("b", devices=8, pools="p"), where, slowness_per_s=1e-4, now_s=0.0)
    assert [job.pool for job in broker.open.values()] == ["p", "p"]
    assert said(broker.replan(where, now_s=60.0)) == [("recall", "a", "p"), ("send", "a", "q")]
    assert broker.replan(where, now_s=120.0) == ()


def test_a_job_keeps_its_turn_for_a_small_gain() -> None:
    broker = Rolling(price_per_slowdown=0.0)
    broker.submit(request("a"), market(pool("p", energy=0.1), pool("q", energy=0.2)), slowness_per_s=1e-4, now_s=0.0)
    nearly = market(pool("p", energy=0.1), pool("q", energy=0.099))
    assert broker.replan(nearly, now_s=60.0) == ()
    better = market(pool("p", energy=0.1), pool("q", energy=0.05))
    assert said(broker.retry(["a", "gone"], better, now_s=60.0)) == [("recall", "a", "p"), ("send", "a", "q")]


def test_nobody_is_forgotten() -> None:
    """A job that no pool can start in the time that is planned, nor in all that is foreseen, waits somewhere."""
    broker = Rolling(price_per_slowdown=1.0)
    late = market(pool("p", (30 * HOUR_S, 3 * DAY_S, 8)), pool("q", (0.0, HOUR_S, 8)))
    assert said(broker.submit(request("a"), late, slowness_per_s=1e-4, now_s=0.0)) == [("send", "a", "p")]
    never = market(pool("p", (0.0, HOUR_S, 8)), pool("q", (0.0, HOUR_S, 9)))
    assert said(broker.submit(request("b"), never, slowness_per_s=1e-4, now_s=0.0)) == [("send", "b", "q")]
    long = request("c", hours=400.0, pools="p")
    assert said(broker.submit(long, market(pool("p")), slowness_per_s=1e-6, now_s=0.0)) == [("send", "c", "p")]


def test_a_job_that_is_dropped_is_called_off() -> None:
    broker = Rolling(price_per_slowdown=100.0)
    broker.submit(request("a", pools="p"), market(pool("p")), slowness_per_s=1e-4, now_s=0.0)
    assert said(broker.dropped("a", now_s=1.0)) == [("recall", "a", "p")]
    assert broker.dropped("a", now_s=1.0) == ()


def test_wrong_use() -> None:
    broker = Rolling(price_per_slowdown=1.0)
    broker.submit(request("a"), market(pool("p")), slowness_per_s=1e-4, now_s=0.0)
    with pytest.raises(SpecError, match="is open already"):
        broker.submit(request("a"), market(pool("p")), slowness_per_s=1e-4, now_s=0.0)
    with pytest.raises(SpecError, match="in no pool"):
        broker.submit(request("b", pools=""), market(pool("p")), slowness_per_s=1e-4, now_s=0.0)
    with pytest.raises(SpecError, match="below zero"):
        Rolling(price_per_slowdown=-1.0)


def test_slowness_is_ruled_by_the_chance_of_a_short_run() -> None:
    assert slowness_per_s(3600.0, 3600.0) == pytest.approx(1 / 3600)
    assert slowness_per_s(1.0, 1.0) == pytest.approx(1 / 10)
    assert slowness_per_s(3600.0, 36_000.0) > 2 / 3600
    with pytest.raises(SpecError, match="give 0 < median"):
        slowness_per_s(10.0, 5.0)


def test_slowness_is_what_past_jobs_of_the_same_forecast_came_to() -> None:
    """One in fifty of those that were said to be long dies in its first seconds: that is what counts."""
    learnt = Slowness()
    assert learnt.calibrated(1e-4) == 1e-4
    for number in range(100):
        learnt.ended(1e-4, 1.0 if number % 50 == 0 else 1e4)
        learnt.ended(1e-2, 100.0)
    assert learnt.calibrated(1e-4) == pytest.approx(0.02 / 10 + 0.98 / 1e4)
    assert learnt.calibrated(1e-5) == learnt.calibrated(1e-4)
    assert learnt.calibrated(2e-2) == pytest.approx(1e-2)
    learnt.ended(1e-2, 50.0)
    assert learnt.calibrated(2e-2) > 1e-2


@pytest.mark.parametrize(
    "text", ["2026-12-01T08:00:05+08:00", "2024-02-29T23:59:59-03:30", "1999-12-31T00:00:00+00:00"]
)
def test_instants_are_written_as_they_are_read(text: str) -> None:
    at_s, offset_s = instant_s(text, utc_offset_s=0.0)
    assert instant_text(at_s, utc_offset_s=offset_s) == text


def test_actions_are_json() -> None:
    action = Recall(job="j", pool="p", at_s=1.0, reason="r")
    assert msgspec.json.decode(msgspec.json.encode(action), type=Send | Recall) == action
