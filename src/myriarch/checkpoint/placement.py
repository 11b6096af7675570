"""On which nodes the copies of a shard lie.

Rules, the strictest first:

1. never on the owner's node, and no two copies on one node;
2. never in the owner's fault domain while another exists, and each copy in a domain of its own while there are enough;
3. in the owner's pool, since its fabric is the fast one; another pool when the rules above leave nothing else;
4. balanced: the node that holds the fewest shards, its own workers' included, is next.

A spare holds no shards of its own, so balance alone gives it copies; and it wins ties, because it is the node that
will take a lost node's place, and then has the bytes already. The price is that a lost spare takes copies with it:
`control` answers that with a pause in which copies are placed anew.

With one copy and equal nodes the rules pair nodes up. Pairs survive more double losses than a ring does: of the
n(n-1)/2 pairs of nodes n/2 are fatal, in a ring n (the group placement of Gemini, Wang et al., SOSP 2023).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from myriarch.event.base import Value
from myriarch.event.ids import NodeId, PoolId
from myriarch.event.layout import GroupLayout, ShardKey, node_order


class Place(Value, frozen=True, kw_only=True):
    """A node that may hold copies."""

    node: NodeId
    pool: PoolId
    fault_domain: str
    spare: bool = False


def place_copies(
    layouts: Sequence[GroupLayout], *, places: Iterable[Place], copies: int
) -> dict[ShardKey, tuple[NodeId, ...]]:  # fmt: skip
    """Nodes of the copies of every shard, by layout and rank. Fewer than `copies` where nodes run out."""
    board = _Board(places)
    for layout in layouts:
        for node in layout.nodes:
            board.load[node] += layout.devices_per_node
    board.build()
    return {key: board.choose(owner, copies) for layout in layouts for key, owner in layout.seats()}


_Entry = tuple[int, bool, tuple[str, int, str], NodeId]
"""`(load, not spare, order, node)`: the least is next."""


class _Board:
    """Nodes of each pool by how much they hold.

    Every node has one entry with its present load in its pool's heap; an entry with another load is stale and is
    dropped when it is met.
    """

    def __init__(self, places: Iterable[Place]) -> None:
        self.places = {place.node: place for place in places}
        self.load = dict.fromkeys(self.places, 0)
        self.heaps: dict[PoolId, list[_Entry]] = {}
        self.domains: dict[PoolId, set[str]] = {}

    def build(self) -> None:
        """Fill the heaps, once all loads are known."""
        for node, place in self.places.items():
            self.heaps.setdefault(place.pool, []).append(self._entry(node))
            self.domains.setdefault(place.pool, set()).add(place.fault_domain)
        for heap in self.heaps.values():
            heapq.heapify(heap)

    def choose(self, owner: NodeId, copies: int) -> tuple[NodeId, ...]:
        """Nodes for the copies of one shard."""
        home = self.places[owner].fault_domain
        chosen: list[NodeId] = []
        for _ in range(copies):
            domains = {home, *(self.places[node].fault_domain for node in chosen)}
            node = self._best({owner, *chosen}, self.places[owner].pool, (domains, {home}, set()))
            if node is None:
                break
            chosen.append(node)
            self.load[node] += 1
            heapq.heappush(self.heaps[self.places[node].pool], self._entry(node))
        return tuple(chosen)

    def _best(self, taken: set[NodeId], mine: PoolId, avoided: Sequence[set[str]]) -> NodeId | None:
        """The best node under the strictest rule that leaves one."""
        others = sorted(pool for pool in self.heaps if pool != mine)
        for domains in avoided:
            for pools in ([mine], others):
                tops = [top for pool in pools if (top := self._top(pool, taken, domains)) is not None]
                if tops:
                    return min(tops)[3]
        return None

    def _top(self, pool: PoolId, taken: set[NodeId], domains: set[str]) -> _Entry | None:
        """The least loaded node of a pool outside these domains. Looks past the nodes that lie in them, no more."""
        if self.domains[pool] <= domains:
            return None
        heap = self.heaps[pool]
        passed: list[_Entry] = []
        found = None
        while heap and found is None:
            entry = heap[0]
            node = entry[3]
            if entry[0] != self.load[node]:
                heapq.heappop(heap)
            elif node in taken or self.places[node].fault_domain in domains:
                passed.append(heapq.heappop(heap))
            else:
                found = entry
        for entry in passed:
            heapq.heappush(heap, entry)
        return found

    def _entry(self, node: NodeId) -> _Entry:
        return self.load[node], not self.places[node].spare, node_order(node), node
