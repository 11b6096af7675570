"""Time counted for many devices at once: exact, and the factors come out of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.account.factors import Peak, integrals
from myriarch.account.tally import Tally
from myriarch.errors import LedgerError, SpecError
from myriarch.event.ids import PoolId
from myriarch.event.spans import LEAVES, Leaf

FAST, SLOW = PoolId("fast"), PoolId("slow")
DAY_NS = 86_400 * 1_000_000_000


def test_leaves_sum_to_capacity_and_give_the_factors() -> None:
    tally = Tally({FAST: 100_000, SLOW: 8}, start_ns=DAY_NS)
    tally.spend(FAST, "repair", devices=20_000, duration_ns=DAY_NS)
    tally.spend(FAST, "useful_compute", devices=80_000, duration_ns=DAY_NS)
    tally.spend(SLOW, "idle_reserved_spare", devices=8, duration_ns=DAY_NS)
    tally.move(FAST, source="useful_compute", target="lost_work", device_ns=20_000 * DAY_NS)
    ledger = tally.ledger(end_ns=2 * DAY_NS)
    assert ledger.total.capacity_device_ns == 100_008 * DAY_NS
    assert ledger.pools[FAST].leaves == {
        "repair": 20_000 * DAY_NS, "useful_compute": 60_000 * DAY_NS, "lost_work": 20_000 * DAY_NS,
    }  # fmt: skip
    assert not ledger.devices
    assert not ledger.nodes
    rates = {FAST: Peak(rate_flops_per_s=2.0), SLOW: Peak(rate_flops_per_s=1.0)}
    whole = integrals(ledger, rates, model_flops=None)
    assert whole is not None
    factors = whole.factors()
    assert factors.availability == pytest.approx(160_008 / 200_008)
    assert factors.scheduling == pytest.approx(160_000 / 160_008)
    assert factors.fault_handling == 0.75
    assert factors.compute is None


@pytest.mark.parametrize(("devices", "what"), [(7, "are in no leaf"), (9, "were spent twice")])
def test_time_spent_twice_or_not_at_all_is_refused(devices: int, what: str) -> None:
    tally = Tally({FAST: 8}, start_ns=0)
    tally.spend(FAST, "useful_compute", devices=devices, duration_ns=10)
    with pytest.raises(LedgerError, match=f"10 device-ns of `fast` {what}"):
        tally.ledger(end_ns=10)


def test_bad_calls_name_the_culprit() -> None:
    with pytest.raises(SpecError, match="`fast` has -1 devices"):
        Tally({FAST: -1}, start_ns=0)
    tally = Tally({FAST: 8}, start_ns=0)
    with pytest.raises(LedgerError, match="1 devices of `fast` for -1 ns in `repair`"):
        tally.spend(FAST, "repair", devices=1, duration_ns=-1)
    with pytest.raises(LedgerError, match="`slow` is none of the pools fast"):
        tally.spend(SLOW, "repair", devices=1, duration_ns=1)
    with pytest.raises(LedgerError, match="it has 0"):
        tally.move(FAST, source="repair", target="lost_work", device_ns=1)
    assert tally.remainder_device_ns(FAST, end_ns=5) == 40


@given(
    st.lists(
        st.tuples(
            st.sampled_from([FAST, SLOW]), st.sampled_from(LEAVES), st.integers(0, 10**6), st.integers(0, 10**16)
        ),
        max_size=30,
    ),
    st.integers(0, 10**17),
)
def test_whatever_is_spent_the_remainder_completes_it(
    rows: list[tuple[PoolId, Leaf, int, int]], duration_ns: int
) -> None:
    tally = Tally({FAST: 10**6, SLOW: 1}, start_ns=0)
    for pool, leaf, devices, spent_ns in rows:
        tally.spend(pool, leaf, devices=devices, duration_ns=spent_ns)
    rests = {pool: tally.remainder_device_ns(pool, end_ns=duration_ns) for pool in (FAST, SLOW)}
    if min(rests.values()) < 0:
        with pytest.raises(LedgerError):
            tally.ledger(end_ns=duration_ns)
        return
    for pool, rest in rests.items():
        tally.spend(pool, "unattributed", devices=1, duration_ns=rest)
    ledger = tally.ledger(end_ns=duration_ns)
    assert sum(ledger.total.leaves.values()) == ledger.total.capacity_device_ns == (10**6 + 1) * duration_ns
    tally.check()
