"""What a training script holds in its hand: one step after another, whatever fails around it.

    with attach() as session:
        session.join()                                     # meet the group
        model, optimizer = ...
        session.restore({"model": model, ...}, reset=...)
        for step in session.steps():                       # a step comes again after a rollback
            loss_sum, tokens = ...                         # forward and backward of `session.slots`
            merged = session.merge(gradient, loss_sum=loss_sum, tokens=tokens)
            if merged is None:                             # the step counts for nothing
                continue
            ...                                            # apply the gradient

Without an agent the same script runs by itself, in one process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from torch import Tensor

from myriarch.arena.beacon import Beacon, PhaseName
from myriarch.errors import EnvironmentFault, MyriarchError, UsageError, UserScriptError
from myriarch.event.actions import Fresh, GroupShare, Keep, WorkerPlan
from myriarch.event.ids import GroupId, Incarnation, NodeId, Rank, Step, device_id
from myriarch.event.spans import Leaf
from myriarch.spec.run import Mesh, ResolvedRun
from myriarch.train.agent_link import AgentGone, AgentLink, Link, NoAgent
from myriarch.train.bridge import Merged
from myriarch.train.data import slots_of_rank
from myriarch.train.group import Group
from myriarch.train.layout import Shape
from myriarch.train.memory_tier import MemoryTier, NoSlot
from myriarch.train.merging import Merging
from myriarch.train.rendezvous import device_of, join_group
from myriarch.train.timeline import Timeline
from myriarch.wire.frames import Channel
from myriarch.wire.worker import Begin, FromAgent, Go, Held, Ready, Rejoin, Sealed, Skipped, Spans, StepDone, Validated

AGENT_FD_ENV: Final = "MYRIARCH_AGENT_FD"
"""Number of the inherited socket to the agent, over which `Attach` has been sent."""


@dataclass(frozen=True)
class Calibration:
    """What a worker measured before the first step."""

    sequence_s: float
    """Seconds of the whole group per sequence of the batch."""
    rate_flops_per_s: float
    """Best matmul rate of the device as it is now."""


@dataclass
class _StepNotes:
    """What is noted of the step at hand, for its report."""

    started: float = 0.0
    computed: float = 0.0
    merged: Merged | None = None
    voted: bool = False
    group_tokens: int = 0
    grad_norm: float = 0.0
    learning_rate: float = 0.0


class Session:
    """One worker's life from its attachment to its end. Made by `attach`."""

    def __init__(self, link: Link, begin: Begin, timeline: Timeline) -> None:
        self.begin: Final = begin
        self.run: Final = begin.resolved.run
        self.plan: WorkerPlan = begin.plan
        self.device: Final = device_of(begin.plan.device_index)
        self.group: Final = Group(rank=begin.plan.rank, world_size=begin.plan.world_size, device=self.device)
        self.timeline: Final = timeline
        self._link: Final = link
        self._merging: Final = Merging(self.run, self.group, link, host=begin.address, token=begin.run_token)
        self._beacon: Final = Beacon(begin.beacon_path, begin.beacon_index) if begin.beacon_path else None
        self._memory: MemoryTier | None = None
        self._store: object = None
        self._go: Go | None = None
        self._step = Step(0)
        self._notes = _StepNotes()
        timeline.device = device_id(begin.node, begin.plan.device_index)
        timeline.group = begin.plan.group
        timeline.incarnation = begin.plan.incarnation
        self._at("start")

    # --- before the first step ---

    def join(self) -> None:
        """Meet the group's other workers, within the run's `start_timeout_s`."""
        self.timeline.enter("comm_init")
        self._store = join_group(
            self.plan,
            token=self.begin.run_token,
            address=self.begin.address,
            device=self.device,
            # Collectives wait for ranks that wait in the bridge, so they must be the more patient.
            timeout_s=self.run.recovery.start_timeout_s + self.run.bridge.timeout_s,
        )
        self.timeline.enter("model_build")

    def restore(
        self,
        state: MutableMapping[str, Any],
        *,
        merged: Mapping[str, Shape] | None = None,
        reset: Callable[[], None] | None = None,
    ) -> Step:
        """Name the state that makes the run, and bring it to what the plan says. Returns the number of steps done.

        `merged` are the names and whole shapes of the parameters whose gradients `merge` gets. `reset` brings the
        state to that of step 0, for a rollback before the first snapshot; without it such a rollback ends this
        process, and a new one begins.
        """
        self._merging.shapes = merged or {}
        self._memory = MemoryTier(state, rank=self.plan.rank, link=self._link, reset=reset)
        self.timeline.enter("restore")
        self._step = self._memory.restore(self.plan.restore, self.begin.slot_paths, in_new_process=True)
        self.timeline.enter("model_build")
        return self._step

    @property
    def memory(self) -> MemoryTier:
        """The state and its slots."""
        if self._memory is None:
            raise UsageError("the session has no state yet; call `session.restore` before `session.steps`")
        return self._memory

    # --- steps ---

    def steps(self, *, calibration: Calibration | None = None) -> Iterator[Step]:
        """The steps to do, each as the number of steps done before it. After a rollback an earlier one comes again."""
        while True:
            try:
                self._ready(calibration)
                word = self._next_word()
                if isinstance(word, Go):
                    yield from self._incarnation(word)
                    word = self._await_rejoin()
            except AgentGone:
                if isinstance(self._link, NoAgent):
                    return
                raise
            calibration = None
            self._roll_back(word)

    def _ready(self, calibration: Calibration | None) -> None:
        snapshot_s = self.memory.rehearse() if calibration is not None else None
        host, port = self._merging.endpoint
        # What is kept is not read all over: at every snapshot all groups' states are compared before it counts.
        digest = "" if isinstance(self.plan.restore, Keep) else self.memory.digest()
        phases = self.timeline.phases()
        self.timeline.enter("rendezvous" if self.plan.incarnation == 1 else "restart")
        self._at("wait")
        self._link.send(
            Ready(
                step=self._step,
                bridge_host=host,
                bridge_port=port,
                state_bytes=self.memory.plan.payload_bytes,
                digest=digest,
                sequence_s=None if calibration is None else calibration.sequence_s,
                snapshot_s=snapshot_s,
                rate_flops_per_s=None if calibration is None else calibration.rate_flops_per_s,
                phases=phases,
            )
        )
        self._report_time(force=True)

    def _next_word(self) -> Go | Rejoin:
        """The next word that is meant for this incarnation or ends it."""
        while True:
            word = self._link.next_word()
            if isinstance(word, Rejoin) or word.incarnation == self.plan.incarnation:
                return word

    def _incarnation(self, go: Go) -> Iterator[Step]:
        """The steps of one incarnation. Ends when the group leaves it, or holds."""
        if go.start_step != self._step:
            raise EnvironmentFault(
                f"this worker's state is of step {self._step}, it was told to go on from {go.start_step}"
            )
        self._go = go
        self._notes = _StepNotes()
        self._at("bridge")
        if not self._merging.connect(go, self.plan):
            return
        if self._step >= self.run.steps and isinstance(self.plan.restore, Keep):
            self._snapshot(wait=True)  # what all have kept is nowhere saved
        while self._step < self.run.steps:
            self._notes = _StepNotes(started=time.monotonic())
            self.phase("useful_compute", "compute")
            yield self._step
            if not self._notes.voted:
                self.merge(None, loss_sum=0.0, tokens=0)
            merged = self._notes.merged
            if merged is None:
                return
            self._finish_step(merged)
            if merged.hold:
                break
        self._hold()

    @property
    def share(self) -> GroupShare:
        """This group's part of the batch."""
        if self._go is None:
            raise UsageError("the group has no share of the batch before the first step; ask inside `session.steps`")
        return next(share for share in self._go.shares if share.group == self.plan.group)

    @property
    def slots(self) -> range:
        """The slots of the batch that this worker computes."""
        return slots_of_rank(self.share.first, self.share.count, rank=self.plan.rank, world_size=self.share.world_size)

    @property
    def speaks_for_all(self) -> bool:
        """Whether this worker's group is the first: it does what one group can do for all."""
        return self._go is not None and self._go.shares[0].group == self.plan.group

    def phase(self, leaf: Leaf, phase: PhaseName) -> None:
        """From now on time of the step at hand belongs to `leaf`, and the beacon shows `phase`."""
        self.timeline.enter(leaf, step=self._step)
        self._at(phase)

    def merge(self, gradient: Tensor | None, *, loss_sum: float, tokens: int) -> Merged | None:
        """Add this group's gradient to those of the others, divide by the valid tokens of the whole batch. In place.

        `gradient` holds this worker's shards of all parameters in the order of their names, flat, fp32, summed over
        the group. `loss_sum` and `tokens` are this worker's own. None: the step counts for nothing, and the state is
        about to be rolled back or to be kept as it was before the step: it may change only after a merge.
        """
        notes = self._notes
        notes.computed = time.monotonic()
        self.phase("exposed_comm", "collective")
        own = self._merging.collect(loss_sum=loss_sum, tokens=tokens)
        merged = None
        if own is not None:
            notes.group_tokens = own.tokens
            self._at("bridge")
            began_ns = self.timeline.now_ns()
            merged = self._merging.cross(gradient, own, step=self._step)
            self._book_crossing(began_ns, merged)
            if merged is not None and gradient is not None:
                if merged.tokens <= 0:
                    raise UserScriptError(f"step {self._step} has a gradient but no valid token in any group")
                gradient.div_(float(merged.tokens))
        self._at("collective")
        notes.merged = self._merging.vote(merged)
        notes.voted = True
        return notes.merged

    def _book_crossing(self, began_ns: int, merged: Merged | None) -> None:
        """Of the time in the bridge, what was spent until the last group began to send was waiting, not transfer."""
        waited_ns = self.timeline.now_ns() - began_ns if merged is None else int(merged.waited_s * 1e9)
        self.timeline.split(began_ns, "exposed_comm")
        self.timeline.split(began_ns + waited_ns, "straggler_wait")

    def report(self, *, grad_norm: float, learning_rate: float) -> None:
        """What the script wants to be known of the step at hand."""
        self._notes.grad_norm = grad_norm
        self._notes.learning_rate = learning_rate

    def report_validation(self, *, loss_sum: float, tokens: int) -> None:
        """Loss on held-out text after the step at hand; called by one worker."""
        self._link.send(Validated(step=Step(self._step + 1), loss_sum=loss_sum, tokens=tokens))

    def _finish_step(self, merged: Merged) -> None:
        notes, made_by = self._notes, self._step
        self._step = Step(made_by + 1)
        if self.plan.rank == 0:
            self._link.send(
                StepDone(
                    step=self._step,
                    loss_sum=merged.loss_sum,
                    tokens=merged.tokens,
                    group_tokens=notes.group_tokens,
                    duration_s=time.monotonic() - notes.started,
                    compute_s=notes.computed - notes.started,
                    grad_norm=notes.grad_norm,
                    learning_rate=notes.learning_rate,
                )
            )
        last = merged.hold or self._step >= self.run.steps
        every = 0 if self._go is None else self._go.memory_every_steps
        if last or (every and self._step % every == 0):
            self.timeline.enter("checkpoint_stall", step=made_by)
            self._snapshot(wait=last)
            self.timeline.enter("host_sync", step=made_by)
        self._report_time()

    def _snapshot(self, *, wait: bool) -> None:
        """Take the snapshot of the present step. One that is skipped stops nobody, but is said."""
        self._at("snapshot")
        started = time.monotonic()
        try:
            slot, root, digest = self.memory.save(step=self._step, incarnation=self.plan.incarnation, wait=wait)
        except (NoSlot, MyriarchError) as error:
            self._link.send(Skipped(step=self._step, why=str(error)))
            return
        self._link.send(
            Sealed(
                slot=slot,
                step=self._step,
                size_bytes=self.memory.plan.payload_bytes,
                root=root,
                digest=digest,
                stall_s=time.monotonic() - started,
            )
        )

    # --- between incarnations ---

    def _hold(self) -> None:
        finished = self._step >= self.run.steps
        self._link.send(Held(step=self._step, finished=finished))
        self.timeline.enter("host_sync")
        self._at("done" if finished else "wait")
        self._report_time(force=True)

    def _await_rejoin(self) -> Rejoin:
        """The group left the incarnation, or holds. What comes next is the agent's word."""
        self._merging.disconnect()
        if self._notes.merged is None:
            self.timeline.enter("detect")
            self._at("wait")
        while True:
            word = self._link.next_word()
            if isinstance(word, Rejoin):
                return word

    def _roll_back(self, word: Rejoin) -> None:
        """Take the state that the next incarnation begins with; the one that is here may be it."""
        self.timeline.form()
        self.plan = word.plan
        self.timeline.incarnation = word.plan.incarnation
        self._at("start")
        if isinstance(word.plan.restore, Keep):
            self.timeline.enter("restart")
            return
        self.timeline.enter("restore")
        self._step = self.memory.restore(word.plan.restore, word.slot_paths, in_new_process=False)

    # --- reporting ---

    def _at(self, phase: PhaseName) -> None:
        if self._beacon is not None:
            self._beacon.set(self.plan.incarnation, self._step, phase)

    def _report_time(self, *, force: bool = False) -> None:
        spans = self.timeline.take(force=force)
        if spans:
            self._link.send(Spans(spans=spans))

    def last_words(self) -> None:
        """Report the rest of the time, if anybody still listens."""
        with contextlib.suppress(AgentGone):
            self._report_time(force=True)

    def close(self) -> None:
        self._merging.close()
        if self._memory is not None:
            self._memory.close()
        if self._beacon is not None:
            self._beacon.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def attach(*, alone: ResolvedRun | None = None, timeline: Timeline | None = None) -> Session:
    """The session of this process: over the inherited socket to its agent, or alone with the run that `alone` says.

    Raises UsageError where there is neither; AgentGone when the agent is gone already.
    """
    timeline = timeline or Timeline()
    descriptor = os.environ.get(AGENT_FD_ENV)
    if descriptor is not None:
        channel: Channel[FromAgent] = Channel(socket.socket(fileno=int(descriptor)), decode_type=FromAgent)
        link = AgentLink(channel)
        return Session(link, link.begin(), timeline)
    if alone is None:
        raise UsageError(f"this process has no agent ({AGENT_FD_ENV} is not set) and was not told what to run alone")
    begin = _begin_alone(alone)
    return Session(NoAgent(group=begin.plan.group, sequences=alone.run.batch.sequences), begin, timeline)


def _begin_alone(resolved: ResolvedRun) -> Begin:
    """What an agent would say to the only worker of the only group."""
    plan = WorkerPlan(
        group=GroupId("alone"),
        rank=Rank(0),
        world_size=1,
        mesh=Mesh(),
        device_index=0,
        incarnation=Incarnation(1),
        store_node=NodeId("alone"),
        store_address="",
        store_port=0,
        copy_nodes=(),
        restore=Fresh(),
    )
    return Begin(
        resolved=resolved,
        plan=plan,
        run_token="",
        address="127.0.0.1",
        slot_paths=(),
        beacon_path="",
        beacon_index=0,
        node=NodeId("alone"),
    )
