"""On which nodes the copies of a shard lie.

Rules, the strictest first:

1. never on the owner's node, and no two copies on one node;
2. never in the owner's fault domain while another exists, and each copy in a domain of its own while there are enough;
3. in the owner's pool, since its fabric is the fast one; another pool when the rules above leave nothing else;
4. together: the shards of all workers of a node have their copies on the same nodes;
5. balanced: the node that holds the fewest shards, its own workers' included, is next, as far as whole nodes' worth of
   shards allow. A node whose devices a group does not all need counts as full, so that it pairs up like any other.

A spare holds no shards of its own, so balance alone gives it copies; and it wins ties, because it is the node that
will take a lost node's place, and then has the bytes already. The price is that a lost spare takes copies with it:
`control` answers that with a pause in which copies are placed anew.

With one copy, and equal nodes in order without a spare, the rules pair nodes up. Pairs survive more double losses than
a ring does: of the n(n-1)/2 pairs of nodes n/2 are fatal, in a ring n (the group placement of Gemini, Wang et al., SOSP
2023). Spreading the shards of a node with eight devices over others would make up to 8n pairs fatal. The price of rule
4 is that whoever takes a lost node's place reads all of its shards from one node, not from several.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

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
    board = _Board(places, weights=_weights(layouts))
    board.choose_all(copies)
    board.even_out()
    chosen = {owner: tuple(nodes) for owner, nodes in board.chosen.items()}
    return {key: chosen[owner] for layout in layouts for key, owner in layout.seats()}


def _weights(layouts: Sequence[GroupLayout]) -> dict[NodeId, int]:
    """Shards of each node's own workers: a whole node's worth of each group that lies on it."""
    weights: dict[NodeId, int] = {}
    for layout in layouts:
        for node in layout.nodes:
            weights[node] = weights.get(node, 0) + layout.devices_per_node
    return weights


_Order = tuple[str, int, str]
_Entry = tuple[int, bool, _Order, NodeId]
"""`(load, not spare, order, node)`: the least is next."""


class _Board:
    """Nodes of each fault domain, and fault domains of each pool, by how much they hold.

    Every node has one entry with its present load in its domain's heap; an entry with another load is stale and is
    dropped when it is met. The first entry of a domain is never stale, and it is in its pool's heap; an entry there
    that is not the first of its domain is stale.
    """

    def __init__(self, places: Iterable[Place], *, weights: Mapping[NodeId, int]) -> None:
        self.places = {place.node: place for place in places}
        self.weights = weights
        self.order = {node: node_order(node) for node in self.places}
        self.load = {node: weights.get(node, 0) for node in self.places}
        self.domains: dict[PoolId, dict[str, list[_Entry]]] = {}
        self.chosen: dict[NodeId, list[NodeId]] = {}
        """By the owner of the shards."""
        for node, place in self.places.items():
            self.domains.setdefault(place.pool, {}).setdefault(place.fault_domain, []).append(self._entry(node))
        for domains in self.domains.values():
            for heap in domains.values():
                heapq.heapify(heap)
        self.firsts = {pool: sorted(heap[0] for heap in domains.values()) for pool, domains in self.domains.items()}

    def choose_all(self, copies: int) -> None:
        """Nodes for all copies. The heaviest owners come first: what is small fills the gaps."""
        for owner in sorted(self.weights, key=self.weights.__getitem__, reverse=True):
            self.chosen[owner] = self._choose(owner, copies)

    def even_out(self) -> None:
        """Move copies from the fullest to the emptiest node of a pool, those of one owner's shards together.

        The last owner in line can find nobody to pair up with: of three nodes, the third one's copies go to the first,
        and the third one holds none. One move makes a ring of them.
        """
        holds: dict[NodeId, list[NodeId]] = {node: [] for node in self.places}
        for owner in self.weights:
            for node in self.chosen[owner]:
                holds[node].append(owner)
        for domains in self.domains.values():
            nodes = {entry[3] for heap in domains.values() for entry in heap}
            lows, highs = self._ends(nodes, 1), self._ends(nodes, -1)
            for _ in nodes:
                low, high = lows[0][2], highs[0][2]
                if not self._move(high, low, holds):
                    break
                for ends, sign in ((lows, 1), (highs, -1)):
                    for node in (low, high):
                        heapq.heappush(ends, (sign * self.load[node], self.order[node], node))
                    while ends[0][0] != sign * self.load[ends[0][2]]:
                        heapq.heappop(ends)

    def _ends(self, nodes: Iterable[NodeId], sign: int) -> list[tuple[int, _Order, NodeId]]:
        """A heap with the emptiest node first, or the fullest if `sign` is -1."""
        ends = [(sign * self.load[node], self.order[node], node) for node in nodes]
        heapq.heapify(ends)
        return ends

    def _choose(self, owner: NodeId, copies: int) -> list[NodeId]:
        """Nodes for the copies of one owner's shards."""
        home = self.places[owner].fault_domain
        chosen: list[NodeId] = []
        for _ in range(copies):
            domains = {home, *(self.places[node].fault_domain for node in chosen)}
            node = self._best({owner, *chosen}, self.places[owner].pool, (domains, {home}, set()))
            if node is None:
                break
            chosen.append(node)
            self._put(node, self.weights[owner])
        return chosen

    def _put(self, node: NodeId, shards: int) -> None:
        """Give a node that many more shards."""
        place = self.places[node]
        heap = self.domains[place.pool][place.fault_domain]
        first = heap[0]
        self.load[node] += shards
        heapq.heappush(heap, self._entry(node))
        while self._stale(heap[0]):
            heapq.heappop(heap)
        if heap[0] != first:
            heapq.heappush(self.firsts[place.pool], heap[0])

    def _move(self, high: NodeId, low: NodeId, holds: dict[NodeId, list[NodeId]]) -> bool:
        """Move the copies of one owner's shards, if that evens out and a rule does not forbid it."""
        for owner in holds[high]:
            others = [node for node in (owner, *self.chosen[owner]) if node != high]
            if self.load[low] + self.weights[owner] >= self.load[high]:
                continue
            if self.places[low].fault_domain in {self.places[node].fault_domain for node in others}:
                continue
            self.chosen[owner] = [low if node == high else node for node in self.chosen[owner]]
            holds[high].remove(owner)
            holds[low].append(owner)
            self.load[high] -= self.weights[owner]
            self.load[low] += self.weights[owner]
            return True
        return False

    def _best(self, taken: set[NodeId], mine: PoolId, avoided: Sequence[set[str]]) -> NodeId | None:
        """The best node under the strictest rule that leaves one."""
        others = sorted(pool for pool in self.domains if pool != mine)
        for domains in avoided:
            for pools in ([mine], others):
                tops = [top for pool in pools if (top := self._top(pool, taken, domains)) is not None]
                if tops:
                    return min(tops)[3]
        return None

    def _top(self, pool: PoolId, taken: set[NodeId], avoided: set[str]) -> _Entry | None:
        """The least loaded node of a pool outside these domains. Looks past as many domains, no more."""
        domains, firsts = self.domains[pool], self.firsts[pool]
        if domains.keys() <= avoided:
            return None
        passed: list[_Entry] = []
        found: _Entry | None = None
        while firsts and (found is None or firsts[0] < found):
            entry = heapq.heappop(firsts)
            domain = self.places[entry[3]].fault_domain
            if entry != domains[domain][0]:
                continue
            passed.append(entry)
            free = self._free(domains[domain], taken) if domain not in avoided else None
            if free is not None and (found is None or free < found):
                found = free
        for entry in passed:
            heapq.heappush(firsts, entry)
        return found

    def _free(self, heap: list[_Entry], taken: set[NodeId]) -> _Entry | None:
        """The least loaded node of a domain that is not taken."""
        passed: list[_Entry] = []
        while heap and (heap[0][3] in taken or self._stale(heap[0])):
            entry = heapq.heappop(heap)
            if not self._stale(entry):
                passed.append(entry)
        found = heap[0] if heap else None
        for entry in passed:
            heapq.heappush(heap, entry)
        return found

    def _stale(self, entry: _Entry) -> bool:
        return entry[0] != self.load[entry[3]]

    def _entry(self, node: NodeId) -> _Entry:
        return self.load[node], not self.places[node].spare, self.order[node], node
