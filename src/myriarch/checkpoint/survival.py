"""How likely the memory tier survives, as its copies really lie.

`place_copies` follows rules (domains, pools, balance) that Gemini's strategies do not have; so its result is counted
as it is. `cost.survival` has the counting and the closed forms that plans use before anything is placed.

The copies of all shards of a node lie together, so that one copy pairs nodes up, however many devices they have: of
128 nodes 64 pairs are fatal, and two simultaneous failures lose something in 0.8 % of cases, as in Gemini's groups. An
odd node makes one ring of three, which is Gemini's mixed strategy. Spares, and nodes in the places of lost ones, turn
pairs into longer chains, of up to one fatal pair per node: 1.6 %. Were the shards of eight devices spread for
balance's sake, 990 pairs would be fatal, 12 % of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from myriarch.cost.survival import sets_probability
from myriarch.event.base import Value
from myriarch.event.ids import NodeId
from myriarch.event.layout import GroupLayout, ShardKey


class Survival(Value, frozen=True, kw_only=True):
    """Chance that nothing is lost from memory when `failed` random nodes fail at once."""

    failed: int
    probability: float
    exact: bool
    """False: a bound that is never too high, where copies hang together over many nodes."""


def survival(
    layouts: Sequence[GroupLayout], *, copies: Mapping[ShardKey, Sequence[NodeId]], nodes: int, failed: int
) -> Survival:
    """`nodes`: all that may fail, spares included. A shard lives with its owner and its copies; twins in other groups,
    which hold the same bytes, are not counted on."""
    sets = [(owner, *copies[key]) for layout in layouts for key, owner in layout.seats()]
    probability, exact = sets_probability(nodes, redundancy_sets=sets, failed=failed)
    return Survival(failed=failed, probability=probability, exact=exact)
