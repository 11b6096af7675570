"""The decision-level projection: equal where only timing differs, unlike where decisions do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from myriarch.simulate import Fault, Timing, decisions, simulate
from myriarch.simulate.conformance import lost_steps
from myriarch.spec.run import ResolvedRun

Make = Callable[..., ResolvedRun]
SLOWER = Timing(
    latency_s=0.011, fork_s=0.05, rendezvous_s=0.9, network_bytes_per_s=2e8, default_sequence_s=0.05, collective_s=0.002
)  # fmt: skip


@pytest.mark.parametrize(
    "fault",
    [
        Fault(action="kill", target="fast-1", at_step=11),
        Fault(action="kill", target="slow/0", at_step=11),
        Fault(action="kill", target="slow-0", at_step=11),
        Fault(action="user_error", target="slow/1", at_step=11),
        Fault(action="request_stop", at_step=11),
    ],
    ids=lambda fault: f"{fault.action} {fault.target}".strip(),
)
def test_only_timing_differs(fault: Fault, make: Make) -> None:
    runs = [
        simulate(make(), faults=[fault], timing=timing)
        for timing in (Timing(default_sequence_s=0.05), SLOWER)
    ]  # fmt: skip
    assert runs[0].records != runs[1].records
    assert decisions(runs[0].records) == decisions(runs[1].records)


def test_what_it_says(make: Make, timing: Timing) -> None:
    records = simulate(make(), faults=[Fault(action="kill", target="fast-1", at_step=11)], timing=timing).records
    told = [(one.what, *one.who, one.how) for one in decisions(records)]
    assert told == [
        ("decide", "group fast", "group slow", "form"),
        ("launch", "fast-0 fast/0 fresh", ""),
        ("launch", "fast-1 fast/1 fresh", ""),
        ("launch", "slow-0 slow/0 fresh", ""),
        ("launch", "slow-1 slow/1 fresh", ""),
        ("start", "fast x2", "slow x2", ""),
        ("decide", "lost fast-1", "group fast", "group slow", "replace_node"),
        ("launch", "fast-0 fast/0 memory", ""),
        ("launch", "fast-2 fast/1 memory", ""),
        ("rejoin", "slow-0 slow/0 memory", ""),
        ("rejoin", "slow-1 slow/1 memory", ""),
        ("stop", "fast-0 fast/0", ""),
        ("start", "fast x2", "slow x2", ""),
        ("end", "completed at the last step"),
    ]
    ((incarnation, (before, after)),) = lost_steps(records).items()
    assert incarnation == 2
    assert 0 <= before - after <= 3


def test_another_fault_is_another_decision(make: Make, timing: Timing) -> None:
    one = simulate(make(), faults=[Fault(action="kill", target="fast-1", at_step=11)], timing=timing)
    other = simulate(make(), faults=[Fault(action="kill", target="fast-0", at_step=11)], timing=timing)
    assert decisions(one.records) != decisions(other.records)
