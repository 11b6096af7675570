"""Snapshots on their way to memory and to disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from myriarch.control.state import State
from myriarch.event.actions import AnyAction, CommitSnapshot, Warn
from myriarch.event.events import (
    DrainFailed,
    FetchFailed,
    ShardDrained,
    ShardFetched,
    ShardReplicated,
    ShardSealed,
    SnapshotDrained,
    SnapshotSkipped,
)


def saved(state: State, actions: Iterable[AnyAction], *, now_s: float) -> Iterator[AnyAction]:
    """Pass on what `Snapshots` says; a commit may be due on disk as well."""
    for action in told(state, actions):
        yield action
        if not isinstance(action, CommitSnapshot) or state.pace.disk_every_steps is None or state.crew.finished:
            continue  # the last snapshot of a run is drained as such, when all have stopped
        committed = state.snapshots.committed
        if committed is not None and committed.step % state.pace.disk_every_steps == 0:
            yield from state.drain.start(committed, final=False, now_s=now_s)


def on_sealed(state: State, event: ShardSealed, now_s: float) -> Iterator[AnyAction]:
    """A worker's part of a snapshot is complete."""
    actions = state.snapshots.seal(event.node, event.shard, digest=event.digest, now_s=now_s)
    yield from saved(state, actions, now_s=now_s)


def on_replicated(state: State, event: ShardReplicated, now_s: float) -> Iterator[AnyAction]:
    """A copy of a part is complete. From a node that was lost meanwhile it is of no use."""
    if event.node in state.members.nodes:
        yield from saved(state, state.snapshots.copy(event.node, event.shard, now_s=now_s), now_s=now_s)


def on_skipped(state: State, event: SnapshotSkipped, now_s: float) -> Iterator[AnyAction]:
    """A part could not be taken, or not be copied."""
    key = (event.group, event.rank)
    stopping = state.course.phase == "holding" or event.step >= state.resolved.run.steps
    actions = state.snapshots.skip(
        key,
        incarnation=event.incarnation,
        step=event.step,
        why=event.why,
        last=stopping and event.step >= state.progress.current,
        now_s=now_s,
    )
    yield from saved(state, actions, now_s=now_s)


def on_fetched(state: State, event: ShardFetched, now_s: float) -> Iterator[AnyAction]:
    """A restore's shard came over: one more holder."""
    if event.node in state.members.nodes:
        state.snapshots.fetched(event.node, event.shard)
    yield from ()


def on_fetch_failed(state: State, event: FetchFailed, now_s: float) -> Iterator[AnyAction]:
    """A restore's shard did not come over: the incarnation cannot be formed as planned."""
    if event.incarnation != state.crew.incarnation or state.course.phase != "forming":
        return
    key = (event.group, event.rank)
    local = event.source == event.node  # no network lies in between: it is not there, or not intact
    believed = not state.snapshots.suspect(event.source, key, event.step, at_once=local)
    what = (
        f"{event.node} could not fetch {event.group}/{event.rank} of step {event.step} from {event.source}: {event.why}"
    )
    state.found(now_s).doubts.append(what if believed else f"{what}; that copy counts as lost")
    yield from ()


def on_drained(state: State, event: ShardDrained, now_s: float) -> Iterator[AnyAction]:
    """A node wrote its shards."""
    yield from state.drain.written(event, now_s=now_s)


def on_snapshot_drained(state: State, event: SnapshotDrained, now_s: float) -> Iterator[AnyAction]:
    """A checkpoint is durable."""
    yield from state.drain.finished(event, now_s=now_s)


def on_drain_failed(state: State, event: DrainFailed, now_s: float) -> Iterator[AnyAction]:
    """A node could not write."""
    yield from told(state, state.drain.fail(event, now_s=now_s))


def told(state: State, actions: Iterable[AnyAction]) -> Iterator[AnyAction]:
    """Pass on, and let the view show the warnings."""
    for action in actions:
        if isinstance(action, Warn):
            state.story.warn(action.reason.text)
        yield action
