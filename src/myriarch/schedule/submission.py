"""From an award to a job in a pool's own engine: what is submitted, what an engine must promise, and how the two are
kept in step when either side crashes.

    Award -> Submission -> Engine           (Slurm, Kubernetes, Ray, ...; none of them is here)
    Reconciliation                          what was intended + what engines report -> submit, cancel, ask

A broker dies between sending and noting the answer; an answer is lost; a listing arrives late. The rules that make
each job run once all the same:

1. Every intention is journalled before anything is sent, and every sending before it is sent (`Wanted`, `Sent`). The
   state here is a fold of the journal: a broker that died is the same fold again.
2. What to do is a function of the state (`due`), not of the event that came last: doing it twice is harmless.
3. An engine runs a key once. It may be sent again as often as nobody knows whether it arrived.
4. A job goes to another pool only after the first one is fenced and a listing asked later shows that it did not run.
5. Absence is evidence only while the engine still lists what has ended (`retention_s`). Later it is `unknown`, which is
   said and never acted upon: to run a job twice is not the broker's to decide. So whoever holds the machine polls
   every engine at least once in half its retention while anything is open there.

What keeps promise 3 in real engines: the name of a Kubernetes object (a second `create` gets 409 AlreadyExists), Ray's
`submission_id`, and in Slurm a job name with `--dependency=singleton` and a search for it before sending.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.schedule.broker_market import Market, Request
from myriarch.schedule.broker_result import Award

# --- what is submitted -----------------------------------------------------------------------------------------------


class Move(Value, frozen=True, kw_only=True):
    """Data that has to be there before the job starts."""

    source: str
    """Sites, as in the market."""
    target: str
    size_bytes: float


class Submission(Value, frozen=True, kw_only=True):
    """One job for one pool's engine, in no engine's words."""

    key: str
    """What it is known by on both sides; an engine runs a key once."""
    job: str
    pool: str
    devices: int
    devices_per_node: int | None = None
    """None: the engine knows its nodes."""
    not_before_s: float
    """On the market's axis."""
    walltime_s: float
    """After which the engine may end it."""
    command: tuple[str, ...]
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    data: tuple[Move, ...] = ()

    @property
    def nodes(self) -> int | None:
        """Whole nodes that the devices need; None where that is the engine's matter."""
        return None if self.devices_per_node is None else math.ceil(self.devices / self.devices_per_node)


def submissions(
    award: Award,
    request: Request,
    market: Market,
    *,
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    walltime_factor: float = 1.5,
    devices_per_node: Mapping[str, int] | None = None,
) -> tuple[Submission, ...]:
    """What an award becomes: one submission for each of its parts, one of a gang.

    `walltime_factor`: over the expected run, since an expectation is no limit; 1.5 lets 9 in 10 runs end whose
    logarithm errs by 0.3. `devices_per_node` by pool. Raises SpecError where award and request are of two jobs, or
    where the factor would end jobs before their expected end.
    """
    if award.job != request.name:
        raise SpecError(f"the award is of `{award.job}`, the request of `{request.name}`; give two of one job")
    if not walltime_factor >= 1:
        raise SpecError(f"`walltime_factor: {walltime_factor:g}` ends jobs before their expected end; give at least 1")
    sites = {offer.name: offer.site for offer in market.offers}
    made: list[Submission] = []
    for number, part in enumerate(award.parts):
        site = sites[part.offer]
        moves = request.data_bytes > 0 and request.data_site != site
        move = Move(source=request.data_site, target=site, size_bytes=request.data_bytes)
        made.append(
            Submission(
                key=award.key if len(award.parts) == 1 else f"{award.key}#{number}",
                job=award.job,
                pool=part.offer,
                devices=part.devices,
                devices_per_node=(devices_per_node or {}).get(part.offer),
                not_before_s=part.start_s,
                walltime_s=(part.end_s - part.start_s) * walltime_factor,
                command=tuple(command),
                environment=dict(sorted((environment or {}).items())),
                data=(move,) if moves else (),
            )
        )
    return tuple(made)


# --- what an engine promises -----------------------------------------------------------------------------------------

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: frozenset[State] = frozenset(("done", "failed", "cancelled"))


class Entry(Value, frozen=True, kw_only=True):
    """What an engine says about one key."""

    key: str
    id: str
    """In the engine's own words."""
    state: State
    started: bool = False
    """Whether it ever ran, be it cancelled since."""
    reason: str = ""


class EngineError(Exception):
    """The engine could not be asked, or did not answer in time: whether it did what was asked is not known."""


class EngineRefused(Exception):
    """The engine understood, and will never run it: too large, unknown partition, no such image."""


class Engine(Protocol):
    """A pool's own engine behind an adapter. Any call may raise EngineError, and may have worked all the same."""

    pool: str
    retention_s: float
    """How long what has ended is still listed: Slurm's `MinJobAge`, a Job's `ttlSecondsAfterFinished`."""

    def submit(self, submission: Submission) -> Entry:
        """Take a job in; of a key that is known already, its entry and nothing else. May raise EngineRefused."""

    def poll(self) -> Sequence[Entry]:
        """All that it knows of us: what waits, what runs, and what ended no longer ago than `retention_s`."""

    def cancel(self, key: str) -> None:
        """End it. A fence: once this returned, no earlier `submit` of the key takes effect any more."""


# --- what happened ---------------------------------------------------------------------------------------------------


class Wanted(Value, frozen=True, kw_only=True, tag="wanted"):
    """A job is to run in a pool; instead of the key it replaces, if it names one."""

    submission: Submission
    replaces: str = ""


class Unwanted(Value, frozen=True, kw_only=True, tag="unwanted"):
    """It shall not run, or run no longer."""

    key: str


class Sent(Value, frozen=True, kw_only=True, tag="sent"):
    """Written before it is sent."""

    key: str
    at_s: float


class Accepted(Value, frozen=True, kw_only=True, tag="accepted"):
    """The engine's answer to a sending."""

    entry: Entry
    at_s: float


class Refused(Value, frozen=True, kw_only=True, tag="refused"):
    """The engine will never run it."""

    key: str
    reason: str


class Fenced(Value, frozen=True, kw_only=True, tag="fenced"):
    """`cancel` returned."""

    key: str
    at_s: float


class Listed(Value, frozen=True, kw_only=True, tag="listed"):
    """What `poll` returned, and when it was asked: it may have arrived much later, or out of order."""

    pool: str
    asked_s: float
    entries: tuple[Entry, ...]


Happened = Wanted | Unwanted | Sent | Accepted | Refused | Fenced | Listed
"""One line of the journal each."""


# --- what to do ------------------------------------------------------------------------------------------------------


class SubmitNow(Value, frozen=True, kw_only=True, tag="submit"):
    """Journal `Sent`, then send."""

    submission: Submission
    reason: str


class CancelNow(Value, frozen=True, kw_only=True, tag="cancel"):
    """Call it off, then journal `Fenced`."""

    key: str
    pool: str
    reason: str


class AskNow(Value, frozen=True, kw_only=True, tag="ask"):
    """Poll the pool's engine: something rests on its answer."""

    pool: str
    reason: str


Action = SubmitNow | CancelNow | AskNow

Outcome = Literal["open", "done", "failed", "refused", "withdrawn", "void", "unknown"]
"""`withdrawn`: fenced, and it never ran to its end. `void`: what it would have replaced ran. `unknown`: the engine no
longer lists it, and it is too long ago to say whether it ran."""


class Intent(msgspec.Struct, kw_only=True):
    """One key: what is wanted, and what is known. Invariant: `fenced_s` only where `wanted` is False."""

    submission: Submission
    replaces: str = ""
    wanted: bool = True
    sent_s: float | None = None
    """When it was sent last."""
    seen_s: float | None = None
    """When the engine knew of it last."""
    entry: Entry | None = None
    absent_s: float | None = None
    """When a listing was asked that lacked it, if it was sent before and not seen since."""
    fenced_s: float | None = None
    outcome: Outcome = "open"
    reason: str = ""


class Reconciliation:
    """The fold of a journal of `Happened`, and what is due by it.

    Invariant (`check`): of keys that replace one another at most one is wanted, sent and open.
    """

    def __init__(self, *, retention_s: Mapping[str, float]) -> None:
        self.intents: dict[str, Intent] = {}
        self._retention_s = dict(retention_s)
        self._asked_s: dict[str, float] = {}
        """By pool: when the newest listing that was taken in had been asked."""

    def apply(self, happened: Happened) -> None:
        """Take in one line of the journal. What is not known, or is older than what is known, changes nothing.

        Raises SpecError for an intention that contradicts an earlier one.
        """
        match happened:
            case Wanted():
                self._want(happened)
            case Unwanted():
                if (intent := self.intents.get(happened.key)) is not None:
                    intent.wanted = False
            case Sent():
                intent = self.intents[happened.key]
                intent.sent_s, intent.absent_s = happened.at_s, None
            case Accepted():
                self._seen(happened.entry, at_s=happened.at_s)
            case Refused():
                self._settle(self.intents[happened.key], "refused", happened.reason)
            case Fenced():
                intent = self.intents[happened.key]
                intent.fenced_s = happened.at_s
            case Listed():
                self._listed(happened)
        self._consequences()

    def due(self) -> tuple[Action, ...]:
        """All that is to be done now, in the order of the intentions. The same until something happens."""
        actions: list[Action] = []
        asked: set[str] = set()
        for intent in self.intents.values():
            for action in self._due(intent):
                if isinstance(action, AskNow):
                    if action.pool in asked:
                        continue
                    asked.add(action.pool)
                actions.append(action)
        return tuple(actions)

    def check(self) -> None:
        """Assert the invariants."""
        for key, intent in self.intents.items():
            assert intent.submission.key == key
            assert intent.fenced_s is None or not intent.wanted
            if intent.replaces and intent.sent_s is not None:
                assert self.intents[intent.replaces].outcome == "withdrawn"

    # --- taking in -----------------------------------------------------------------------------------------------

    def _want(self, wanted: Wanted) -> None:
        key = wanted.submission.key
        if key in self.intents:
            if self.intents[key].submission != wanted.submission:
                raise SpecError(f"`{key}` is the key of two different submissions; give one another key")
            return
        if wanted.replaces:
            if wanted.replaces not in self.intents:
                raise SpecError(f"`{key}` replaces `{wanted.replaces}`, which nobody wanted; check the key")
            if any(each.replaces == wanted.replaces for each in self.intents.values()):
                raise SpecError(f"`{wanted.replaces}` has been replaced already; replace its successor")
            self.intents[wanted.replaces].wanted = False
        self.intents[key] = Intent(submission=wanted.submission, replaces=wanted.replaces)

    def _seen(self, entry: Entry, *, at_s: float) -> None:
        intent = self.intents.get(entry.key)
        if intent is None or intent.outcome in ("done", "failed") or at_s < (intent.seen_s or -math.inf):
            return
        intent.entry, intent.seen_s, intent.absent_s = entry, at_s, None

    def _listed(self, listed: Listed) -> None:
        """Older listings than the newest one say nothing new."""
        if listed.asked_s <= self._asked_s.get(listed.pool, -math.inf):
            return
        self._asked_s[listed.pool] = listed.asked_s
        found = {entry.key: entry for entry in listed.entries}
        for key, intent in self.intents.items():
            if intent.submission.pool != listed.pool or intent.outcome != "open":
                continue
            if key in found:
                self._seen(found[key], at_s=listed.asked_s)
            elif intent.sent_s is not None and intent.sent_s < listed.asked_s > (intent.seen_s or -math.inf):
                intent.absent_s = listed.asked_s

    def _consequences(self) -> None:
        for intent in self.intents.values():
            if intent.outcome == "open":
                self._conclude(intent)

    def _conclude(self, intent: Intent) -> None:
        entry = intent.entry
        if entry is not None and entry.state in ("done", "failed"):
            self._settle(intent, "done" if entry.state == "done" else "failed", entry.reason)
        elif self._forgotten(intent):
            self._settle(intent, "unknown", f"{intent.submission.pool} no longer lists it; it may have run")
        elif intent.sent_s is None:
            self._conclude_unsent(intent)
        elif intent.fenced_s is not None and self._ended_after(intent, intent.fenced_s):
            self._settle(intent, "withdrawn", "called off")
        elif entry is not None and entry.state == "cancelled" and intent.wanted:
            self._settle(intent, "failed", entry.reason or "cancelled by somebody else")

    def _conclude_unsent(self, intent: Intent) -> None:
        """What was never sent is as settled as what it replaces: of a chain, an earlier one may still run."""
        before = self.intents[intent.replaces] if intent.replaces else None
        if before is not None and before.outcome not in ("open", "withdrawn"):
            self._settle(intent, "void", f"`{intent.replaces}` was not called off: {before.outcome}")
        elif not intent.wanted and (before is None or before.outcome == "withdrawn"):
            self._settle(intent, "withdrawn", "it was never sent")

    def _ended_after(self, intent: Intent, fenced_s: float) -> bool:
        """Whether a listing asked after the fence shows that it did not run to its end."""
        if intent.absent_s is not None:
            return intent.absent_s > fenced_s
        cancelled = intent.entry is not None and intent.entry.state == "cancelled"
        return cancelled and intent.seen_s is not None and intent.seen_s > fenced_s

    def _forgotten(self, intent: Intent) -> bool:
        """Absent for so long since it was last known or sent, that it may have run, ended and been forgotten."""
        if intent.absent_s is None or intent.sent_s is None:
            return False
        known_s = intent.sent_s if intent.seen_s is None else intent.seen_s
        return intent.absent_s - known_s >= self._retention_s[intent.submission.pool]

    def _settle(self, intent: Intent, outcome: Outcome, reason: str) -> None:
        intent.outcome, intent.reason = outcome, reason

    # --- what is due ---------------------------------------------------------------------------------------------

    def _due(self, intent: Intent) -> Iterator[Action]:
        key, pool = intent.submission.key, intent.submission.pool
        if intent.outcome != "open" or (intent.replaces and self.intents[intent.replaces].outcome == "open"):
            return
        if not intent.wanted:
            if intent.fenced_s is None:
                yield CancelNow(key=key, pool=pool, reason="it is no longer wanted")
            else:
                yield AskNow(pool=pool, reason=f"whether {key} ran before it was called off")
        elif intent.sent_s is None:
            yield SubmitNow(submission=intent.submission, reason="it was never sent")
        elif intent.absent_s is not None:
            yield SubmitNow(submission=intent.submission, reason=f"{pool} does not have it")
        elif intent.seen_s is None:
            yield AskNow(pool=pool, reason=f"whether {key} arrived")
