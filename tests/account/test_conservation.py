"""Whatever comes in, each device-nanosecond is in exactly one leaf: `==`, no leaf negative, no order preferred."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.account import History, build_ledger, build_report
from myriarch.account.paint import Claim, Layer, paint
from myriarch.event.events import RunStarted
from myriarch.event.ids import DeviceId, GroupId, Incarnation, Step
from myriarch.event.journal import Record
from myriarch.event.spans import LEAVES, Leaf, Span
from myriarch.units import NS_PER_S

EPOCH_NS = 1_790_000_000 * NS_PER_S
CLAIMS = st.builds(
    Claim,
    start_ns=st.integers(-20, 120),
    end_ns=st.integers(-20, 120),
    leaf=st.sampled_from(LEAVES),
    layer=st.sampled_from(list(Layer)[1:]),
    incarnation=st.integers(0, 3),
    step=st.none() | st.integers(0, 5),
)
INSTANTS = st.integers(EPOCH_NS - 20 * NS_PER_S, EPOCH_NS + 120 * NS_PER_S)
SPANS = st.builds(
    Span,
    device=st.sampled_from(["fast-0/0", "fast-1/0", "fast-2/0", "slow-0/0", "elsewhere-7/3"]).map(DeviceId),
    start_ns=INSTANTS,
    end_ns=INSTANTS,
    leaf=st.sampled_from(LEAVES),
    group=st.none() | st.sampled_from(["fast", "slow"]).map(GroupId),
    incarnation=st.none() | st.integers(0, 4).map(Incarnation),
    step=st.none() | st.integers(0, 8).map(Step),
)


def ledger_of(records: Sequence[Record], spans: Sequence[Span]) -> dict[DeviceId, dict[Leaf, int]]:
    """Leaves by device, having checked that they add up."""
    history = History.from_records(records, spans)
    ledger = build_ledger(history)
    assert ledger.total.capacity_device_ns == len(history.devices) * history.duration_ns
    assert sum(ledger.total.leaves.values()) == ledger.total.capacity_device_ns
    for account in ledger.devices.values():
        assert account.capacity_device_ns == history.duration_ns == sum(account.leaves.values())
        assert all(ns > 0 for ns in account.leaves.values())
    return {device: dict(account.leaves) for device, account in ledger.devices.items()}


@given(st.lists(CLAIMS, max_size=30), st.randoms(use_true_random=False))
def test_paint_covers_everything_once_and_prefers_no_order(claims: list[Claim], dice: random.Random) -> None:
    segments = paint(claims, start_ns=0, end_ns=100)
    assert segments[0].start_ns == 0
    assert segments[-1].end_ns == 100
    for before, after in itertools.pairwise(segments):
        assert before.end_ns == after.start_ns
        assert (before.leaf, before.layer, before.incarnation, before.step) != (
            after.leaf, after.layer, after.incarnation, after.step,
        )  # fmt: skip
    assert all(segment.duration_ns > 0 for segment in segments)
    again = claims + claims[: len(claims) // 2]
    dice.shuffle(again)
    assert paint(again, start_ns=0, end_ns=100) == segments


@given(st.lists(CLAIMS, min_size=1, max_size=12))
def test_paint_gives_each_instant_to_the_strongest_claim(claims: list[Claim]) -> None:
    for segment in paint(claims, start_ns=0, end_ns=100):
        for instant in {segment.start_ns, segment.end_ns - 1}:
            there = [c for c in claims if c.start_ns <= instant < c.end_ns]
            if not there:
                assert segment.layer == Layer.NOBODY
                assert segment.leaf == "unattributed"
            else:
                strongest = max(c.layer for c in there)
                assert segment.layer == strongest
                assert segment.incarnation == max(c.incarnation for c in there if c.layer == strongest)


def test_paint_of_no_time_is_nothing() -> None:
    assert paint([], start_ns=5, end_ns=5) == ()


@settings(max_examples=60)
@given(spans=st.lists(SPANS, max_size=20), dice=st.randoms(use_true_random=False))
def test_wild_spans(lost_node_records: tuple[Record, ...], spans: list[Span], dice: random.Random) -> None:
    """Gaps, overlaps, clock jumps, foreign devices, negative spans."""
    leaves = ledger_of(lost_node_records, spans)
    again = spans + spans[::2]
    dice.shuffle(again)
    assert ledger_of(lost_node_records, again) == leaves


@settings(max_examples=60)
@given(
    keep=st.lists(st.booleans(), min_size=100, max_size=100),
    jumps=st.dictionaries(st.integers(1, 99), st.integers(-30 * NS_PER_S, 30 * NS_PER_S), max_size=5),
    dice=st.randoms(use_true_random=False),
)
def test_a_journal_with_gaps_and_clock_jumps(
    lost_node_records: tuple[Record, ...],
    lost_node_spans: tuple[Span, ...],
    keep: list[bool],
    jumps: dict[int, int],
    dice: random.Random,
) -> None:
    records = [
        Record(seq=r.seq, at_ns=r.at_ns + jumps.get(r.seq, 0), event=r.event, action=r.action)
        for r, kept in zip(lost_node_records, keep, strict=False)
        if kept or isinstance(r.event, RunStarted)
    ]
    leaves = ledger_of(records, lost_node_spans)
    again = records + records[::3]
    dice.shuffle(again)
    assert ledger_of(again, lost_node_spans) == leaves
    build_report(History.from_records(records, lost_node_spans))


@settings(max_examples=40)
@given(stop=st.integers(1, 200), data=st.data())
def test_every_prefix_of_a_journal_adds_up(
    lost_node_records: tuple[Record, ...], lost_node_spans: tuple[Span, ...], stop: int, data: st.DataObject
) -> None:
    """What a report of a running, or a killed, run rests on."""
    records = lost_node_records[:stop]
    later_ns = records[-1].at_ns + data.draw(st.integers(0, 40)) * NS_PER_S
    spans = [span for span in lost_node_spans if span.end_ns <= later_ns]
    history = History.from_records(records, spans, end_ns=later_ns)
    ledger = build_ledger(history)
    assert sum(ledger.total.leaves.values()) == 4 * history.duration_ns
    report = build_report(history)
    for factor in (report.factors.availability, report.factors.scheduling, report.factors.fault_handling):
        assert factor is None or 0 <= factor <= 1
