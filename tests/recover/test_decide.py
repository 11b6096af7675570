"""Diagnosis and choice, case by case. How they play together is in `tests/control/scenarios`."""

from __future__ import annotations

import msgspec
import pytest

from myriarch.event.ids import GroupId, NodeId, Rank
from myriarch.recover.decide import Budget, Situation, decide
from myriarch.recover.incident import SETTLE_S, Diagnosis, Incident, diagnose
from myriarch.spec.run import Recovery

A, B = (GroupId("g"), Rank(0)), (GroupId("g"), Rank(1))
FAULT = Diagnosis(kind="fault", text="node n-1 is lost", lost_nodes=(NodeId("n-1"),))
CALM = Situation(
    diagnosis=FAULT, replaced=(), shrunk=(), missing=(), formable=2, waited_s=0.0, restarts=0, without_progress=0
)


def situation(**changes: object) -> Situation:
    return msgspec.structs.replace(CALM, **changes)


# --- diagnosis -------------------------------------------------------------------------------------------------------


def test_a_fact_needs_no_settling() -> None:
    incident = Incident(number=1, opened_s=10.0, workers={A: "signal 9"})
    diagnosis = diagnose(incident, now_s=10.0)
    assert diagnosis is not None
    assert (diagnosis.kind, diagnosis.lost_workers) == ("fault", (A,))


def test_a_symptom_waits_for_its_cause_and_then_is_believed() -> None:
    incident = Incident(number=1, opened_s=10.0, symptoms={B: "connection closed"})
    assert diagnose(incident, now_s=10.0 + SETTLE_S - 0.01) is None
    diagnosis = diagnose(incident, now_s=10.0 + SETTLE_S)
    assert diagnosis is not None
    assert diagnosis.kind == "fault"
    incident.workers[A] = "signal 9"
    found = diagnose(incident, now_s=10.1)
    assert found is not None
    assert set(found.lost_workers) == {A, B}


def test_an_exception_is_the_users_unless_somebody_was_lost() -> None:
    incident = Incident(number=1, opened_s=10.0, user_errors={A: "ValueError"}, symptoms={B: "closed"})
    assert diagnose(incident, now_s=10.0) is None
    diagnosis = diagnose(incident, now_s=10.0 + SETTLE_S)
    assert diagnosis is not None
    assert (diagnosis.kind, diagnosis.detail) == ("user_error", "ValueError")
    incident.nodes[NodeId("n-1")] = "killed"
    found = diagnose(incident, now_s=10.0 + SETTLE_S)
    assert found is not None
    assert found.kind == "fault"
    assert found.detail == "ValueError", "it is told all the same: if nothing helps, it may have been the cause"


def test_the_exit_after_last_words_is_no_fact_against_them() -> None:
    incident = Incident(number=1, opened_s=10.0, user_errors={A: "ValueError"})
    incident.lose_worker(A, "exit code 1")
    incident.check()
    diagnosis = diagnose(incident, now_s=11.0)
    assert diagnosis is not None
    assert diagnosis.kind == "user_error"


def test_a_long_list_is_cut_in_the_text_only() -> None:
    nodes = {NodeId(f"n-{index}"): "killed" for index in range(100)}
    diagnosis = diagnose(Incident(number=1, opened_s=0.0, nodes=nodes), now_s=0.0)
    assert diagnosis is not None
    assert len(diagnosis.lost_nodes) == 100
    assert diagnosis.text.endswith("and 96 more")


# --- choice ----------------------------------------------------------------------------------------------------------

WAIT = Recovery(missing_group="wait", wait_limit_s=10.0)
DEGRADE = Recovery(missing_group="degrade", wait_limit_s=10.0)


@pytest.mark.parametrize(
    ("given", "recovery", "choice"),
    [
        (situation(), WAIT, "restart_workers"),
        (situation(replaced=(("n-1", "n-2"),)), WAIT, "replace_node"),
        (situation(shrunk=(("g", 2, 1),)), WAIT, "shrink_group"),
        (situation(shrunk=(("g", 2, 1),), replaced=(("m-1", "m-2"),)), WAIT, "shrink_group"),
        (situation(missing=("g",), formable=1), WAIT, "wait_for_group"),
        (situation(missing=("g",), formable=1, waited_s=10.0), WAIT, "give_up"),
        (situation(missing=("g",), formable=1), DEGRADE, "wait_for_group"),
        (situation(missing=("g",), formable=1, waited_s=10.0), DEGRADE, "degrade"),
        (situation(missing=("g", "h"), formable=0, waited_s=10.0), DEGRADE, "give_up"),
        (situation(formable=0, waited_s=10.0), DEGRADE, "give_up"),
        (situation(missing=("g",), formable=1), Recovery(missing_group="degrade", wait_limit_s=0.0), "degrade"),
        (situation(diagnosis=Diagnosis(kind="user_error", text="raised")), WAIT, "stop_user_error"),
        (situation(restarts=100), WAIT, "give_up"),
        (situation(without_progress=3), WAIT, "give_up"),
        (situation(without_progress=2), WAIT, "restart_workers"),
    ],
)
def test_the_mildest_choice_that_helps(given: Situation, recovery: Recovery, choice: str) -> None:
    decision = decide(given, recovery=recovery)
    assert decision.choice == choice
    assert decision.reason.text, "with its reason"


def test_a_budget_counts_restarts_and_forgets_those_that_got_somewhere() -> None:
    budget = Budget()
    assert budget.stuck(5) == 0
    budget.spend(5)
    assert budget.stuck(5) == 1
    assert budget.stuck(6) == 0
    budget.spend(5)
    budget.spend(4)
    assert budget.stuck(5) == 3
    budget.spend(6)
    assert (budget.stuck(6), budget.restarts) == (1, 4)
