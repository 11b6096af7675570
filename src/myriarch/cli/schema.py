"""`myriarch schema NAME`: the JSON Schema of each file and message that a person or a program may read or write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from myriarch.errors import UsageError
from myriarch.spec.problems import did_you_mean

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema(name: str) -> int:
    """Print the schema called `name`; without a name, what there is to ask for."""
    if not name:
        print("\n".join(SCHEMAS))
        return 0
    if name not in SCHEMAS:
        raise UsageError(
            f"there is no schema `{name}`;{did_you_mean(name, SCHEMAS)}", hint=f"there are: {', '.join(SCHEMAS)}"
        )
    print(msgspec.json.format(msgspec.json.encode(document(name)), indent=2).decode())
    return 0


def document(name: str) -> dict[str, Any]:
    """The JSON Schema called `name`, with its dialect and title, in JSON's own types."""
    whole = {"$schema": DIALECT, "title": f"myriarch {name}", **SCHEMAS[name]()}
    return cast("dict[str, Any]", msgspec.json.decode(msgspec.json.encode(whole)))


def _spec(name: str) -> Callable[[], dict[str, Any]]:
    """What a person writes: quantities may have units, which msgspec's own schema does not know."""

    def build() -> dict[str, Any]:
        from myriarch.spec.schema import json_schema

        return json_schema(name)

    return build


def _market() -> dict[str, Any]:
    from myriarch.schedule.broker_market import Market
    from myriarch.spec.schema import schema_of

    return schema_of(Market)


def _jobs() -> dict[str, Any]:
    from myriarch.schedule.broker_market import Jobs
    from myriarch.spec.schema import schema_of

    return schema_of(Jobs)


def _match() -> dict[str, Any]:
    from myriarch.schedule.broker_result import Matching

    return msgspec.json.schema(Matching)


def _report() -> dict[str, Any]:
    from myriarch.account import Report

    return msgspec.json.schema(Report)


def _event() -> dict[str, Any]:
    from myriarch.event.events import AnyEvent

    return msgspec.json.schema(AnyEvent)


def _action() -> dict[str, Any]:
    from myriarch.event.actions import AnyAction

    return msgspec.json.schema(AnyAction)


def _journal() -> dict[str, Any]:
    """One line of a journal, without its checksum and length."""
    from myriarch.event.journal import Record

    return msgspec.json.schema(Record)


def _doctor() -> dict[str, Any]:
    from myriarch.cli.doctor import Diagnosis

    return msgspec.json.schema(Diagnosis)


def _validate() -> dict[str, Any]:
    from myriarch.plan.validation import Validation

    return msgspec.json.schema(Validation)


def _plan() -> dict[str, Any]:
    from myriarch.plan.answer import Answer

    return msgspec.json.schema(Answer)


def _optimal() -> dict[str, Any]:
    from myriarch.cli.optimal import Optimal

    return msgspec.json.schema(Optimal)


def _arithmetic() -> dict[str, Any]:
    from myriarch.cli.arithmetic import Arithmetic

    return msgspec.json.schema(Arithmetic)


def _walls() -> dict[str, Any]:
    from myriarch.plan.walls import Walls

    return msgspec.json.schema(Walls)


def _scenario() -> dict[str, Any]:
    from myriarch.simulate.scenario import Scenario
    from myriarch.spec.schema import schema_of

    return schema_of(Scenario)


def _simulate() -> dict[str, Any]:
    from myriarch.simulate.scenario_answer import Answer

    return msgspec.json.schema(Answer)


def _sweep() -> dict[str, Any]:
    from myriarch.simulate.sweep import Sweep

    return msgspec.json.schema(Sweep)


def _tuning() -> dict[str, Any]:
    from myriarch.simulate.scenario_tuning import Tuning

    return msgspec.json.schema(Tuning)


def _what_if() -> dict[str, Any]:
    from myriarch.simulate.from_live import WhatIf

    return msgspec.json.schema(WhatIf)


def _queue() -> dict[str, Any]:
    from myriarch.simulate.from_live_queue import Queue

    return msgspec.json.schema(Queue)


SCHEMAS: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "fleet": _spec("fleet"),
    "model": _spec("model"),
    "run": _spec("run"),
    "profile": _spec("profile"),
    "market": _market,
    "jobs": _jobs,
    "match": _match,
    "report": _report,
    "event": _event,
    "action": _action,
    "journal": _journal,
    "doctor": _doctor,
    "validate": _validate,
    "plan": _plan,
    "optimal": _optimal,
    "arithmetic": _arithmetic,
    "walls": _walls,
    "scenario": _scenario,
    "simulate": _simulate,
    "sweep": _sweep,
    "tuning": _tuning,
    "what-if": _what_if,
    "queue": _queue,
}
