"""The end of a step: all groups add their gradients, and each group votes on whether the step counts.

How a group stays together: a worker leaves an incarnation only where its whole group does, at the vote that ends
each step and at the one that follows `Go`. Whoever saw a `Rejoin`, or lost a peer of the bridge, says so there, and
then all of the group leave. Another group may have applied the step: either all go back to the same snapshot, or each
says of which step its state is (`Ready`) before any goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from myriarch.errors import EnvironmentFault
from myriarch.event.actions import WorkerPlan
from myriarch.event.ids import GroupId, Step
from myriarch.spec.run import Mesh, Run
from myriarch.train.agent_link import Link
from myriarch.train.bridge import Bridge, Contribution, Merged, build, layouts_of
from myriarch.train.bridge_links import Interrupted, Membership, listen
from myriarch.train.bridge_wire import PeerLost
from myriarch.train.group import Group
from myriarch.train.layout import Shape
from myriarch.wire.worker import Go


class Merging:
    """This worker's part in the agreement: the bridge of the present incarnation, and the votes of its group."""

    def __init__(self, run: Run, group: Group, link: Link, *, host: str, token: str) -> None:
        self._run: Final = run
        self._group: Final = group
        self._link: Final = link
        self._token: Final = token
        self._listener: Final = listen(host)
        self._bridge: Bridge | None = None
        self.shapes: Mapping[str, Shape] = {}
        """Whole shapes of the parameters whose gradients are merged, by name."""

    @property
    def endpoint(self) -> tuple[str, int]:
        """Where other groups' workers reach this one."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def connect(self, go: Go, plan: WorkerPlan) -> bool:
        """Build the bridge of an incarnation. False: the group leaves it again, because the bridge lost a peer.

        Raises BridgeError, AuthenticationError when the other side is not what it should be.
        """
        self.disconnect()
        failed = self._link.pump()
        if len(go.shares) > 1 and not failed:
            try:
                self._bridge = build(
                    self._membership(go, plan),
                    shares=go.shares,
                    endpoints=go.endpoints,
                    listener=self._listener,
                    interrupt=self._link,
                    timeout_s=self._run.bridge.timeout_s,
                )
            except (Interrupted, PeerLost):
                failed = True
        return not self._anybody(failed)

    def _membership(self, go: Go, plan: WorkerPlan) -> Membership:
        meshes = meshes_of(go, self._run)
        if meshes[plan.group] != plan.mesh:
            raise EnvironmentFault(
                f"group {plan.group} has mesh {plan.mesh}; by the run file, others take it for {meshes[plan.group]}"
            )
        return Membership(
            group=plan.group,
            rank=plan.rank,
            incarnation=go.incarnation,
            token=self._token,
            layouts=layouts_of(go.shares, self.shapes, meshes),
        )

    def collect(self, *, loss_sum: float, tokens: int) -> Contribution | None:
        """What the whole group brings to the step, the same on each of its workers. None: somebody is called away."""
        hold, leaving = self._link.take_hold(), self._link.pump()
        rows = self._group.gather([loss_sum, float(tokens), float(hold), float(leaving)])
        if any(row[3] for row in rows):
            return None
        return Contribution(
            tokens=int(sum(row[1] for row in rows)),
            loss_sum=sum(row[0] for row in rows),
            hold=any(row[2] for row in rows),
        )

    def cross(self, gradient: Tensor | None, own: Contribution, *, step: Step) -> Merged | None:
        """Over the bridge and back: `gradient` becomes the sum over all groups. None when this worker lost a peer."""
        if self._bridge is None or gradient is None:
            return Merged(tokens=own.tokens, loss_sum=own.loss_sum, hold=own.hold, waited_s=0.0)
        host = gradient.cpu()
        try:
            merged = self._bridge.exchange(host.numpy(), step=step, own=own)
        except (Interrupted, PeerLost):
            return None
        if host is not gradient:
            gradient.copy_(host)
        return merged

    def vote(self, merged: Merged | None) -> Merged | None:
        """The group's verdict on the step: None if any of its workers could not finish it."""
        return None if self._anybody(merged is None) else merged

    def _anybody(self, fact: bool) -> bool:
        return self._group.maxima([float(fact)])[0] > 0.0

    def disconnect(self) -> None:
        """Hang up. Peers take it as a sign that something happened, and wait for their agents' word."""
        if self._bridge is not None:
            self._bridge.close()
            self._bridge = None

    def close(self) -> None:
        self.disconnect()
        self._listener.close()


def meshes_of(go: Go, run: Run) -> dict[GroupId, Mesh]:
    """Every group's mesh: the run file's, and all devices sharded for a group that has not its full size."""
    configured = {group.name: group.mesh for group in run.groups}
    meshes: dict[GroupId, Mesh] = {}
    for share in go.shares:
        mesh = configured.get(share.group)
        meshes[share.group] = (
            mesh if mesh is not None and mesh.devices == share.world_size else Mesh(dp_shard=share.world_size)
        )
    return meshes
