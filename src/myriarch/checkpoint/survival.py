"""How likely the memory tier survives, as its copies really lie.

`place_copies` follows rules (domains, pools, balance) that Gemini's strategies do not have; so its result is counted
as it is. `cost.survival` has the counting and the closed forms that plans use before anything is placed.

With one device a node, copies pair nodes up and two failures lose something as rarely as in Gemini's groups. With
eight, balance spreads a node's shards over several others: they are restored from many at once, but of 128 nodes 990
pairs are fatal and not 64, so that two simultaneous failures lose something in 12 % of cases instead of 0.8 %.
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
