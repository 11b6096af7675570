"""Fair share and multi-factor priority: the numbers of Slurm's documentation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.priority import MultiFactor, Weights
from myriarch.schedule.shares import Account, Shares

DAY_S = 86_400.0


def documented() -> Shares:
    """ "Classic Fairshare Algorithm", section Example: accounts A..F, users 1..5."""
    shares = Shares(
        [
            Account(name="A", shares=40),
            Account(name="D", shares=60),
            Account(name="B", shares=30, parent="A"),
            Account(name="C", shares=10, parent="A"),
            Account(name="E", shares=25, parent="D"),
            Account(name="F", shares=35, parent="D"),
            Account(name="1", parent="B"),
            Account(name="2", parent="C"),
            Account(name="3", parent="C"),
            Account(name="4", parent="E"),
            Account(name="5", parent="F"),
        ]
    )
    for user, used in (("1", 0.2), ("2", 0.25), ("4", 0.25)):
        shares.charge(user, used, at_s=0.0)
    return shares


USAGE_IN_THE_EXAMPLE = 0.7
"""Its users used 0.2, 0.25 and 0.25 of the machine, which was idle for the rest: a share of use has to be scaled by
it."""


@pytest.mark.parametrize(
    ("user", "share", "effective", "factor"),
    [
        ("1", 0.3, 0.3875, 0.408479),
        ("2", 0.05, 0.275, 0.022097),
        ("3", 0.05, 0.15, 0.125000),
        ("4", 0.25, 0.25, 0.500000),
        ("5", 0.35, 0.1458, 0.749154),
    ],
)
def test_the_example_of_the_documentation(user: str, share: float, effective: float, factor: float) -> None:
    shares = documented()
    assert shares.normalised(user) == pytest.approx(share)
    assert shares.effective_usage(user) * USAGE_IN_THE_EXAMPLE == pytest.approx(effective, abs=5e-5)
    assert shares.classic(user, damping=1 / USAGE_IN_THE_EXAMPLE) == pytest.approx(factor, abs=2e-6)


def test_a_half_is_using_exactly_ones_share() -> None:
    shares = Shares([Account(name="a", shares=3), Account(name="b", shares=1)])
    shares.charge("a", 75.0, at_s=0.0)
    shares.charge("b", 25.0, at_s=0.0)
    assert shares.factors("classic") == {"a": 0.5, "b": 0.5}


def test_fair_tree_ranks_children_with_their_account() -> None:
    """A user of an under-served account comes before all of an over-served one, whatever it used itself."""
    shares = Shares(
        [
            Account(name="served"),
            Account(name="over"),
            Account(name="heavy", parent="served"),
            Account(name="light", parent="served"),
            Account(name="idle", parent="over"),
            Account(name="busy", parent="over"),
        ]
    )
    shares.charge("heavy", 30.0, at_s=0.0)
    shares.charge("light", 10.0, at_s=0.0)
    shares.charge("busy", 60.0, at_s=0.0)
    assert shares.fair_tree() == {"light": 1.0, "heavy": 0.75, "idle": 0.5, "busy": 0.25}


def test_fair_tree_ties() -> None:
    """ "Ties": equal siblings share a rank; equal accounts have their children merged."""
    users = [Account(name=f"{at}{of}", parent=of) for at in (1, 2) for of in "ab"]
    shares = Shares([Account(name="a"), Account(name="b"), *users])
    shares.charge("1a", 10.0, at_s=0.0)
    shares.charge("1b", 10.0, at_s=0.0)
    assert shares.fair_tree() == {"2a": 1.0, "2b": 1.0, "1a": 0.5, "1b": 0.5}
    users = [Account(name="x", parent="account"), Account(name="y", parent="account")]
    mixed = Shares([Account(name="user"), Account(name="account"), *users])
    mixed.charge("x", 10.0, at_s=0.0)
    mixed.charge("user", 10.0, at_s=0.0)
    assert mixed.fair_tree() == {"y": 1.0, "user": 1.0, "x": pytest.approx(1 / 3)}


def test_usage_decays_by_half_in_a_half_life() -> None:
    shares = Shares([Account(name="a"), Account(name="b")], half_life_s=DAY_S)
    shares.charge("a", 100.0, at_s=0.0)
    shares.charge("b", 50.0, at_s=DAY_S)
    assert shares.usage("a") == pytest.approx(0.5)
    for day in range(2000):  # past the largest power of two that a float holds
        shares.charge("a", 1.0, at_s=day * DAY_S)
        shares.charge("b", 3.0, at_s=day * DAY_S)
    assert shares.usage("b") == pytest.approx(0.75, abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1e6)), max_size=20), st.floats(0.01, 100))
def test_factors_lie_between_0_and_1(charges: list[tuple[int, float]], share: float) -> None:
    shares = Shares([Account(name=str(at), shares=share if at else 1.0) for at in range(5)])
    for at, (who, used) in enumerate(charges):
        shares.charge(str(who), used, at_s=at * 1e5)
    for algorithm in ("classic", "fair tree"):
        assert all(0.0 <= factor <= 1.0 for factor in shares.factors(algorithm).values())


def job(name: str, tenant: str, *, devices: int = 1, submit_s: float = 0.0, quality: float = 0.0) -> Job:
    return Job(id=JobId(name), submit_s=submit_s, devices=devices, estimate_s=10.0, tenant=tenant, quality=quality)


def test_the_formula() -> None:
    order = MultiFactor(
        Shares([Account(name="a"), Account(name="b")]),
        devices=100,
        weights=Weights(age=1000, fair_share=10_000, size=500, quality=2000),
    )
    factors = order.factors(job("1", "a", devices=20, quality=0.5), now_s=3.5 * DAY_S)
    assert (factors.age, factors.fair_share, factors.size, factors.quality) == (0.5, 1.0, 0.2, 0.5)
    assert factors.priority == pytest.approx(500 + 10_000 + 100 + 1000)
    assert order.factors(job("2", "nobody"), now_s=30 * DAY_S).age == 1.0
    assert order.factors(job("2", "nobody"), now_s=30 * DAY_S).fair_share == 0.0


def test_who_uses_much_comes_later() -> None:
    order = MultiFactor(Shares([Account(name="a"), Account(name="b")]), devices=100)
    order.started(job("1", "a", devices=50), now_s=0.0)
    assert order.key(job("2", "a"), now_s=600.0) > order.key(job("3", "b"), now_s=600.0)
    order.ended(JobId("1"), now_s=700.0)
    order.ended(JobId("unknown"), now_s=700.0)


def test_users_under_tenants() -> None:
    order = MultiFactor(Shares([Account(name="t"), Account(name="t/u", parent="t")]), devices=4)
    one = Job(id=JobId("1"), submit_s=0.0, devices=1, estimate_s=1.0, tenant="t", user="u")
    assert order.factors(one, now_s=0.0).fair_share == 1.0


@pytest.mark.parametrize(
    "accounts",
    [
        [Account(name="a"), Account(name="a")],
        [Account(name="a", parent="b")],
        [Account(name="a", shares=0)],
        [Account(name="a", parent="b"), Account(name="b", parent="a")],
    ],
)
def test_trees_that_are_none(accounts: list[Account]) -> None:
    with pytest.raises(SpecError):
        Shares(accounts)


def test_what_was_used_a_thousand_half_lives_ago_is_forgotten() -> None:
    shares = Shares([Account(name="a"), Account(name="b")], half_life_s=1e-9)
    shares.charge("a", 100.0, at_s=0.0)
    shares.charge("b", 1.0, at_s=1e18)
    assert (shares.usage("a"), shares.usage("b")) == (0.0, 1.0)
