"""Faults on purpose, as the controller takes the order: the name checked, the fault journalled, its node told."""

from __future__ import annotations

import asyncio
import difflib
import os
import signal
from collections.abc import Callable
from typing import Final, Literal, TypeGuard, get_args

from myriarch.errors import UsageError
from myriarch.event.events import FaultInjected
from myriarch.event.ids import GroupId, NodeId, Rank
from myriarch.run.decider import Decider
from myriarch.run.messages import Inflict, Inflicted
from myriarch.run.outbox import Connection
from myriarch.run.server import ChaosOrder

ANSWER_TIMEOUT_S: Final = 2.0
"""For an agent's answer. A node that is to be killed or stopped gives none."""
SELF_DELAY_S: Final = 0.05
"""For the answer to leave before the controller itself is hit."""

Fault = Literal["kill", "stop", "slow", "resume"]


class Chaos:
    """Takes orders of chaos over a decider's nodes."""

    def __init__(self, decider: Decider) -> None:
        self._decider = decider
        self._waiting: dict[int, asyncio.Future[Inflicted]] = {}
        """Orders that an agent has not yet answered."""
        self._count = 0

    async def inflict(self, order: ChaosOrder, *, resume_node: Callable[[NodeId], None]) -> str:
        """Do it and say what was done. Raises UsageError for what cannot be.

        `resume_node` asks the engine to continue a whole node.
        """
        action = order.action
        if not _is_fault(action):
            close = difflib.get_close_matches(action, get_args(Fault), 1)
            hint = f"did you mean `{close[0]}`? " if close else ""
            raise UsageError(f"`{action}` is no fault", hint=f"{hint}there are: {', '.join(get_args(Fault))}")
        if action == "slow" and not 0 < (order.factor or 0.0) <= 1:
            raise UsageError(f"slow needs the share of speed that is left, not {order.factor}", hint="--factor 0.5")
        if order.target == "controller":
            return self._on_controller(action, order)
        node, worker = self._target(order.target)
        connection = self._decider.outboxes[node].connection
        if connection is None and action != "resume":
            raise UsageError(f"{node} is not connected", hint="it may be lost already; see `myriarch report`")
        self._note(action, order, (node,))
        if action == "resume" and worker is None:
            resume_node(node)
        if connection is not None:
            await self._tell(connection, action, worker, order)
        return f"{action} {order.target} on {node}"

    def answered(self, answer: Inflicted) -> None:
        """An agent did, or could not do, what it was told."""
        waiting = self._waiting.get(answer.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _target(self, target: str) -> tuple[NodeId, tuple[GroupId, Rank] | None]:
        workers = {f"{group}/{rank}": (group, rank) for group, rank in self._decider.workers}
        if target in workers:
            return self._decider.workers[workers[target]], workers[target]
        if target in self._decider.outboxes:
            return NodeId(target), None
        known = ["controller", *self._decider.outboxes, *workers]
        close = difflib.get_close_matches(target, known, 1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        raise UsageError(
            f"`{target}` is no node and no worker of this run", hint=f"{hint}there are: {', '.join(known)}"
        )

    def _note(self, action: Fault, order: ChaosOrder, nodes: tuple[NodeId, ...]) -> None:
        """Into the journal before it hits: that is the instant of the fault."""
        detail = "" if order.factor is None else f"factor {order.factor:g}"
        self._decider.take(FaultInjected(action=action, target=order.target, nodes=nodes, detail=detail))

    def _on_controller(self, action: Fault, order: ChaosOrder) -> str:
        number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}.get(action)
        if number is None:
            raise UsageError(f"the controller cannot be hit by {action}", hint="use kill or stop")
        self._note(action, order, ())
        asyncio.get_running_loop().call_later(SELF_DELAY_S, os.kill, os.getpid(), number)
        return f"{action} controller"

    async def _tell(
        self, connection: Connection, action: Fault, worker: tuple[GroupId, Rank] | None, order: ChaosOrder
    ) -> None:
        self._count += 1
        number = self._count
        answer: asyncio.Future[Inflicted] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            connection.send(Inflict(id=number, action=action, worker=worker, factor=order.factor))
            if worker is None and action != "slow":
                return  # the node is dead or stopped, or the engine wakes it
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                error = (await answer).error
        except TimeoutError:
            raise UsageError(f"the agent of {order.target} did not answer within {ANSWER_TIMEOUT_S:g} s") from None
        finally:
            del self._waiting[number]
        if error:
            raise UsageError(error)


def _is_fault(action: str) -> TypeGuard[Fault]:
    return action in get_args(Fault)
