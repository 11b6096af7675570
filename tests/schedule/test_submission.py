"""Awards become submissions; and whatever crashes when, every job runs once.

The property test drives the reconciliation against a double of an engine: calls get lost before or after they worked,
arrive late, listings arrive out of order, ended jobs are forgotten, and the broker dies after any line of its journal.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule.broker import solve
from myriarch.schedule.broker_market import Jobs, Market
from myriarch.schedule.submission import (
    Accepted,
    Action,
    AskNow,
    CancelNow,
    Entry,
    Fenced,
    Happened,
    Listed,
    Reconciliation,
    Refused,
    Sent,
    State,
    Submission,
    SubmitNow,
    Unwanted,
    Wanted,
    submissions,
)
from myriarch.spec.parse import parse

EXAMPLE = Path(__file__).parents[2] / "examples" / "broker"
RETENTION_S = 50.0


def submission(key: str, *, pool: str = "a", job: str = "j") -> Submission:
    return Submission(key=key, job=job, pool=pool, devices=8, not_before_s=0.0, walltime_s=60.0, command=("run",))


# --- from an award ---------------------------------------------------------------------------------------------------


def test_what_an_award_becomes() -> None:
    market = parse((EXAMPLE / "market.yaml").read_text(), kind=Market)
    jobs = parse((EXAMPLE / "jobs.yaml").read_text(), kind=Jobs)
    awards = {award.job: award for award in solve(jobs, market, method="arrival").awards}
    requests = {request.name: request for request in jobs.jobs}
    (one,) = submissions(
        awards["pretrain"], requests["pretrain"], market, command=("train", "run.yaml"),
        environment={"B": "2", "A": "1"}, devices_per_node={"west": 8},
    )  # fmt: skip
    assert (one.key, one.pool, one.devices, one.nodes) == (awards["pretrain"].key, "west", 64, 8)
    assert one.walltime_s == pytest.approx(1.5 * 20 * 3600)
    assert [(move.source, move.target, move.size_bytes) for move in one.data] == [("shanghai", "guizhou", 4e12)]
    assert list(one.environment) == ["A", "B"]
    tasks = submissions(awards["sweep"], requests["sweep"], market, command=("try",))
    assert len({each.key for each in tasks}) == len(tasks) == len(awards["sweep"].parts)
    with pytest.raises(SpecError, match="give two of one job"):
        submissions(awards["sweep"], requests["pretrain"], market, command=("x",))
    with pytest.raises(SpecError, match="before their expected end"):
        submissions(awards["sweep"], requests["sweep"], market, command=("x",), walltime_factor=0.5)


# --- examples --------------------------------------------------------------------------------------------------------


def machine(*happened: Happened) -> Reconciliation:
    made = Reconciliation(retention_s={"a": RETENTION_S, "b": RETENTION_S})
    for each in happened:
        made.apply(each)
        made.check()
    return made


def entry(key: str, state: State) -> Entry:
    return Entry(key=key, id="17", state=state)


WANTED = Wanted(submission=submission("k"))


def test_an_answer_that_was_lost_is_asked_for() -> None:
    (action,) = machine(WANTED, Sent(key="k", at_s=1.0)).due()
    assert action == AskNow(pool="a", reason="whether k arrived")


def test_what_arrived_is_adopted_and_what_did_not_is_sent_again() -> None:
    sent = (WANTED, Sent(key="k", at_s=1.0))
    assert machine(*sent, Listed(pool="a", asked_s=2.0, entries=(entry("k", "queued"),))).due() == ()
    (again,) = machine(*sent, Listed(pool="a", asked_s=2.0, entries=())).due()
    assert isinstance(again, SubmitNow)


def test_a_listing_asked_before_the_sending_says_nothing() -> None:
    late = machine(WANTED, Sent(key="k", at_s=3.0), Listed(pool="a", asked_s=2.0, entries=()))
    assert isinstance(late.due()[0], AskNow)
    older = machine(
        WANTED, Sent(key="k", at_s=1.0), Listed(pool="a", asked_s=5.0, entries=(entry("k", "running"),)),
        Listed(pool="a", asked_s=4.0, entries=()),
    )  # fmt: skip
    assert older.due() == ()


def test_absence_after_the_retention_is_unknown_and_nothing_is_done() -> None:
    gone = machine(WANTED, Sent(key="k", at_s=1.0), Listed(pool="a", asked_s=1.0 + RETENTION_S, entries=()))
    assert (gone.intents["k"].outcome, gone.due()) == ("unknown", ())


def test_a_job_moves_only_when_the_first_pool_has_let_go() -> None:
    moved = (WANTED, Sent(key="k", at_s=1.0), Wanted(submission=submission("l", pool="b"), replaces="k"))
    assert [type(action) for action in machine(*moved).due()] == [CancelNow]
    fenced = (*moved, Fenced(key="k", at_s=2.0))
    assert [type(action) for action in machine(*fenced).due()] == [AskNow]
    free = machine(*fenced, Listed(pool="a", asked_s=3.0, entries=(entry("k", "cancelled"),)))
    assert [type(action) for action in free.due()] == [SubmitNow]
    ran = machine(*fenced, Listed(pool="a", asked_s=3.0, entries=(entry("k", "done"),)))
    assert (ran.intents["l"].outcome, ran.due()) == ("void", ())


def test_refusals_end_it() -> None:
    refused = machine(WANTED, Sent(key="k", at_s=1.0), Refused(key="k", reason="no such partition"))
    assert (refused.intents["k"].outcome, refused.due()) == ("refused", ())


def test_contradictions() -> None:
    with pytest.raises(SpecError, match="two different submissions"):
        machine(WANTED, Wanted(submission=submission("k", pool="b")))
    with pytest.raises(SpecError, match="which nobody wanted"):
        machine(Wanted(submission=submission("k"), replaces="x"))


def test_the_journal_is_json() -> None:
    for each in (WANTED, Sent(key="k", at_s=1.0), Listed(pool="a", asked_s=2.0, entries=(entry("k", "done"),))):
        assert msgspec.json.decode(msgspec.json.encode(each), type=Happened) == each


# --- anything may crash ----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Double:
    """An engine that keeps its promises, seen through a network that keeps none."""

    known: dict[str, Entry] = dataclasses.field(default_factory=dict)
    tombs: set[str] = dataclasses.field(default_factory=set)
    ended_s: dict[str, float] = dataclasses.field(default_factory=dict)
    runs: Counter[str] = dataclasses.field(default_factory=Counter)
    """By job: how often it ran to its end."""
    ever: set[str] = dataclasses.field(default_factory=set)

    def submit(self, wanted: Submission) -> Entry | None:
        if wanted.key in self.tombs:
            return None
        if wanted.key not in self.ever:
            self.ever.add(wanted.key)
            self.known[wanted.key] = Entry(key=wanted.key, id=str(len(self.ever)), state="queued")
        return self.known.get(wanted.key)

    def cancel(self, key: str, *, now_s: float) -> None:
        self.tombs.add(key)
        if key in self.known and self.known[key].state in ("queued", "running"):
            self.end(key, "cancelled", now_s=now_s)

    def end(self, key: str, state: State, *, now_s: float) -> None:
        self.known[key] = msgspec.structs.replace(self.known[key], state=state)
        self.ended_s[key] = now_s

    def advance(self, jobs: dict[str, str], *, now_s: float) -> None:
        """Everything goes one state on; what ended long ago is forgotten."""
        for key, held in list(self.known.items()):
            if held.state == "queued":
                self.known[key] = msgspec.structs.replace(held, state="running", started=True)
            elif held.state == "running":
                self.runs[jobs[key]] += 1
                self.end(key, "done", now_s=now_s)
            elif now_s - self.ended_s[key] > RETENTION_S:
                del self.known[key]


class Swarm:
    """Jobs are wanted, moved and dropped, while calls get lost, listings come late, and the broker dies."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now_s = 0.0
        self.journal: list[Happened] = []
        self.engines = {"a": Double(), "b": Double()}
        self.on_the_way: list[Submission] = []
        self.listings: list[Listed] = []
        self.jobs: dict[str, str] = {}
        self.dropped: set[str] = set()
        self.broker = self.reborn()

    def reborn(self) -> Reconciliation:
        """Nothing is left but the journal."""
        broker = Reconciliation(retention_s=dict.fromkeys(self.engines, RETENTION_S))
        for each in msgspec.json.decode(msgspec.json.encode(self.journal), type=list[Happened]):
            broker.apply(each)
        return broker

    def note(self, happened: Happened) -> None:
        self.now_s += 1.0
        self.journal.append(happened)
        self.broker.apply(happened)

    def open_keys(self) -> list[str]:
        return [key for key, intent in self.broker.intents.items() if intent.outcome == "open" and intent.wanted]

    # Steps.

    def want(self) -> None:
        job = f"j{len(self.journal)}"
        self.jobs[f"{job}.0"] = job
        self.note(Wanted(submission=submission(f"{job}.0", pool=self.rng.choice("ab"), job=job)))

    def move(self) -> None:
        if keys := self.open_keys():
            key = self.rng.choice(keys)
            job, number = key.split(".")
            new = f"{job}.{int(number) + 1}"
            pool = "b" if self.broker.intents[key].submission.pool == "a" else "a"
            self.jobs[new] = job
            self.note(Wanted(submission=submission(new, pool=pool, job=job), replaces=key))

    def drop(self) -> None:
        if keys := self.open_keys():
            key = self.rng.choice(keys)
            self.dropped.add(self.jobs[key])
            self.note(Unwanted(key=key))

    def act(self) -> None:
        """Do what is due, in any order; some calls are lost, some work and the answer is lost, some are late."""
        due = list(self.broker.due())
        for action in self.rng.sample(due, len(due)):
            if isinstance(action, SubmitNow):
                self.note(Sent(key=action.submission.key, at_s=self.now_s))
            fate = self.rng.choice(("works", "works", "works", "lost", "answer lost", "late", "dies"))
            if fate == "dies":
                return self.die()
            if fate != "lost":
                self.carry_out(action, fate)
        return None

    def carry_out(self, action: Action, fate: str) -> None:
        if isinstance(action, SubmitNow):
            if fate == "late":
                self.on_the_way.append(action.submission)
                return
            at_s, taken = self.now_s, self.engines[action.submission.pool].submit(action.submission)
            if fate == "works" and taken is not None:
                self.note(Accepted(entry=taken, at_s=at_s))
        elif isinstance(action, CancelNow):
            self.engines[action.pool].cancel(action.key, now_s=self.now_s)
            if fate == "works":
                self.note(Fenced(key=action.key, at_s=self.now_s))
        else:
            listing = Listed(
                pool=action.pool, asked_s=self.now_s, entries=tuple(self.engines[action.pool].known.values())
            )
            self.now_s += 1.0
            self.listings.append(listing)
            if fate == "works":
                self.note(listing)

    def arrives(self) -> None:
        """A submission that was long on its way."""
        if self.on_the_way:
            late = self.on_the_way.pop(self.rng.randrange(len(self.on_the_way)))
            self.engines[late.pool].submit(late)

    def an_old_listing(self) -> None:
        if self.listings:
            self.note(self.rng.choice(self.listings))

    def time_passes(self) -> None:
        self.now_s += self.rng.choice((1.0, 5.0, 25.0))
        for engine in self.engines.values():
            engine.advance(self.jobs, now_s=self.now_s)

    def die(self) -> None:
        before, self.broker = self.broker, self.reborn()
        assert self.broker.due() == before.due()

    # What holds.

    def runs(self) -> Counter[str]:
        return sum((engine.runs for engine in self.engines.values()), Counter())

    def check(self) -> None:
        """No job ran twice, nor runs in two places, nor runs that has run."""
        self.broker.check()
        alive = Counter(
            self.jobs[key]
            for engine in self.engines.values()
            for key, held in engine.known.items()
            if held.state == "running"
        )
        assert all(count == 1 for count in (self.runs() + alive).values())

    def heal(self) -> None:
        """Calls work again: then every job runs, was dropped, or is said to be unknown."""
        while self.on_the_way:
            self.arrives()
        self.round()
        unknown = self.unknown()
        for _ in range(8 + 4 * len(self.jobs)):
            self.round()
            self.check()
        assert self.broker.due() == ()
        assert self.unknown() == unknown, "once engines answer, nothing is lost from sight"
        for job in set(self.jobs.values()) - self.dropped - unknown:
            assert self.runs()[job] == 1, f"{job} was lost"

    def round(self) -> None:
        for action in self.broker.due():
            if isinstance(action, SubmitNow):
                self.note(Sent(key=action.submission.key, at_s=self.now_s))
            self.carry_out(action, "works")
        for pool, engine in self.engines.items():
            self.now_s += 1.0
            self.note(Listed(pool=pool, asked_s=self.now_s, entries=tuple(engine.known.values())))
            engine.advance(self.jobs, now_s=self.now_s)

    def unknown(self) -> set[str]:
        return {self.jobs[key] for key, each in self.broker.intents.items() if each.outcome == "unknown"}


STEPS = {
    "want": Swarm.want,
    "act": Swarm.act,
    "move": Swarm.move,
    "time": Swarm.time_passes,
    "listing": Swarm.an_old_listing,
    "arrives": Swarm.arrives,
    "die": Swarm.die,
    "drop": Swarm.drop,
}
OFTEN = ("want", "act", "act", "act", "move", "time", "time", "listing", "arrives", "die", "drop")


@settings(max_examples=150)
@given(st.lists(st.sampled_from(OFTEN), min_size=40, max_size=70), st.integers(0, 2**32))
def test_no_job_is_lost_and_none_runs_twice(steps: list[str], seed: int) -> None:
    swarm = Swarm(random.Random(seed))
    for step in steps:
        STEPS[step](swarm)
        swarm.check()
    swarm.heal()
