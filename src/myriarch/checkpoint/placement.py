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
    for layout in layouts:
        for key, owner in layout.seats():
            board.chosen[key] = board.choose(owner, copies)
            board.owners[key] = owner
    board.even_out()
    return {key: tuple(nodes) for key, nodes in board.chosen.items()}


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
        self.chosen: dict[ShardKey, list[NodeId]] = {}
        self.owners: dict[ShardKey, NodeId] = {}

    def build(self) -> None:
        """Fill the heaps, once all loads are known."""
        for node, place in self.places.items():
            self.heaps.setdefault(place.pool, []).append(self._entry(node))
            self.domains.setdefault(place.pool, set()).add(place.fault_domain)
        for heap in self.heaps.values():
            heapq.heapify(heap)

    def choose(self, owner: NodeId, copies: int) -> list[NodeId]:
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
        return chosen

    def even_out(self) -> None:
        """Move copies from the fullest to the emptiest node of a pool.

        The last owner in line can find nobody to pair up with: of three nodes, the third one's copy goes to the first,
        and the third one holds none. One move makes a ring of them.
        """
        for pool, heap in self.heaps.items():
            nodes = sorted({entry[3] for entry in heap}, key=node_order)
            holds: dict[NodeId, list[ShardKey]] = {node: [] for node in nodes}
            for key, chosen in self.chosen.items():
                for node in chosen:
                    if self.places[node].pool == pool:
                        holds[node].append(key)
            for _ in nodes:
                low = min(nodes, key=self.load.__getitem__)
                high = max(nodes, key=self.load.__getitem__)
                if self.load[high] - self.load[low] < 2 or not self._move(high, low, holds):
                    break

    def _move(self, high: NodeId, low: NodeId, holds: dict[NodeId, list[ShardKey]]) -> bool:
        """Move one copy, if a rule does not forbid it."""
        for key in holds[high]:
            others = [node for node in (self.owners[key], *self.chosen[key]) if node != high]
            if self.places[low].fault_domain in {self.places[node].fault_domain for node in others}:
                continue
            self.chosen[key] = [low if node == high else node for node in self.chosen[key]]
            holds[high].remove(key)
            holds[low].append(key)
            self.load[high] -= 1
            self.load[low] += 1
            return True
        return False

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
