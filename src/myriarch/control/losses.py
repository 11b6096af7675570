"""What is found to be gone: nodes and workers."""

from __future__ import annotations

from collections.abc import Iterator

from myriarch.control.saving import saved
from myriarch.control.state import State
from myriarch.event.actions import AnyAction, FenceNode, LogMembership, Reason
from myriarch.event.ids import NodeId
from myriarch.event.layout import ShardKey


def lose_node(state: State, node: NodeId, how: str, *, fence: bool, now_s: float) -> Iterator[AnyAction]:
    """A member is gone, with its memory and its workers. With `fence` it may still live, and is told."""
    gone = state.members.lose(node, fence=fence)
    yield LogMembership(
        node=node,
        pool=gone.pool,
        role="fenced" if fence else "lost",
        reason=Reason(text=f"{node} is lost: {how}", numbers={"members": len(state.members.nodes)}),
    )
    if fence:
        text = f"{node} is given up ({how}); whatever of it still lives must not come back"
        yield FenceNode(node=node, boot=gone.boot, reason=Reason(text=text, numbers={}))
    yield from saved(state, state.snapshots.lose(node, now_s=now_s), now_s=now_s)
    yield from state.drain.lose(node, now_s=now_s)
    lost = (*state.crew.on_node.get(node, ()), *state.beside.on_node(node))
    for key in lost:
        state.lose(key, dead=True)
    if lost:
        state.found(now_s).nodes[node] = how


def lose_worker(state: State, key: ShardKey, how: str, *, dead: bool, now_s: float) -> None:
    """A worker of the present incarnation is gone, or of no use: a fact. With `dead` its process is gone, too."""
    known = state.incident is not None and (key in state.incident.symptoms or key in state.incident.user_errors)
    if state.lose(key, dead=dead) and not known:
        state.found(now_s).lose_worker(key, how)
