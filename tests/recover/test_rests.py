"""Nodes that fail again and again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from myriarch.event.ids import GroupId, NodeId, Rank
from myriarch.recover.incident import Incident
from myriarch.recover.rests import FORGET_S, REST_MOST_S, Rests, culprits, rest_after_s

NODE = NodeId("a-1")
KEY = (GroupId("g"), Rank(0))
OTHER = (GroupId("g"), Rank(1))


def test_rests_begin_with_the_second_failure_double_and_stop_at_an_hour() -> None:
    assert [rest_after_s(count) for count in range(6)] == [0, 0, 10, 20, 40, 80]
    assert rest_after_s(10) == 2560
    assert rest_after_s(11) == rest_after_s(10_000) == REST_MOST_S


def test_a_node_that_held_is_as_good_as_new() -> None:
    rests = Rests()
    assert rests.failed([NODE], now_s=0.0) == ""
    assert rests.failed([NODE], now_s=FORGET_S - 1) == "a-1 failed 2 times in a row and rests for 10 s"
    assert rests.deadline_s == FORGET_S + 9
    assert not rests.over(FORGET_S + 8)
    assert rests.over(FORGET_S + 9)
    assert not rests.over(FORGET_S + 9)
    assert rests.failed([NODE], now_s=2 * FORGET_S + 9) == ""


def test_of_many_only_some_are_named() -> None:
    rests, nodes = Rests(), [NodeId(f"a-{index}") for index in range(6)]
    rests.failed(nodes, now_s=0.0)
    told = rests.failed(nodes, now_s=1.0)
    assert told.count(" rests for 10 s") == 4
    assert told.endswith(", and 2 more")


@given(gaps_s=st.lists(st.one_of(st.just(0.0), st.floats(0.0, 1.5 * FORGET_S)), max_size=60))
def test_who_fails_all_the_time_is_tried_ten_times_an_hour_at_most(gaps_s: list[float]) -> None:
    rests, now_s, started = Rests(), 0.0, []
    for gap_s in gaps_s:
        now_s = max(now_s + gap_s, rests.deadline_s or 0.0)
        rests.over(now_s)
        assert not rests.resting
        started.append(now_s)
        rests.failed([NODE], now_s=now_s)
        rests.check()
    assert all(later - first >= 3600.0 for first, later in zip(started, started[10:], strict=False))


def test_who_fails_at_once_is_tried_once_an_hour_in_the_end() -> None:
    rests, now_s, starts = Rests(), 0.0, 0
    while now_s < 86_400.0:
        starts += 1
        rests.failed([NODE], now_s=now_s)
        now_s = rests.deadline_s or now_s
        rests.over(now_s)
    assert starts == 10 + 23


def test_facts_are_to_blame_and_symptoms_where_there_are_none() -> None:
    incident = Incident(number=1, opened_s=0.0)
    incident.symptoms[OTHER] = "connection closed by peer"
    places = {KEY: NODE, OTHER: NodeId("a-2")}
    assert culprits(incident, node_of=places.get) == ("a-2",)
    incident.lose_worker(KEY, "signal 9")
    assert culprits(incident, node_of=places.get) == ("a-1",)
    incident.nodes[NODE] = "silent"
    incident.nodes[NodeId("a-3")] = "silent"
    assert culprits(incident, node_of=places.get) == ("a-1", "a-3")
