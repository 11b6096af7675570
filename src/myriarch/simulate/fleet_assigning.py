"""Who would take whose place on a simulated fleet, and whether groups of these sizes can split the batch."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import msgspec

from myriarch.control.judging import fits, grown
from myriarch.event.ids import GroupId, NodeId, PoolId
from myriarch.event.layout import GroupLayout
from myriarch.schedule.groups import Assignment, assign
from myriarch.simulate.fleet_crew import NOWHERE
from myriarch.simulate.fleet_state import State
from myriarch.spec.run import Group


def assign_groups(
    state: State, groups: Mapping[GroupId, Group], *, whole: bool = False, without: Container[NodeId] = ()
) -> Assignment:
    """How all groups would lie now; only `groups` are looked at, the others stay as they are. `whole`: none of them
    goes on smaller than it is to be. `without`: nodes that nobody is to have."""
    crew, saved, incident = state.crew, state.tiers.saved, state.trouble.incident
    lost = incident.nodes if incident is not None else {}
    idle = {pool: list(crew.spare[pool]) for pool in {PoolId(group.pool): None for group in groups.values()}}
    for node in lost:  # who is back is so under its name, with nothing of what it had
        if node in crew.members and crew.members[node] in idle:
            idle[crew.members[node]].append(node)
    if without:
        idle = {pool: [node for node in nodes if node not in without] for pool, nodes in idle.items()}
    whole = whole or state.terms.whole_groups
    members, seat = crew.members, crew.seat  # asked for every node of every group that is looked at
    found = assign(
        # Where many are away, most groups lack more nodes than there are.
        [
            one
            for name, one in groups.items()
            if not whole or one.nodes - crew.present[name] <= len(idle[PoolId(one.pool)])
        ],
        idle=idle,
        previous=crew.last,
        lost=lambda group, node: (
            node not in members or node in lost or node in without or seat.get(node, NOWHERE)[0] != group
        ),
        holds=lambda group, place, node: saved.holds((group, place), node),
        warm=lambda node: True,
        fits=lambda some: _fit(state, some, besides=groups),
        whole=whole,
    )
    everybody = dict(crew.layouts)
    formed = {layout.group: layout for layout in found.layouts}
    for name, layout in formed.items():
        if everybody.get(name) != layout:  # an equal one stays itself
            everybody[name] = layout
    missing = tuple(name for name in groups if name not in formed)
    for name in missing:
        everybody.pop(name, None)
    layouts = tuple(everybody[name] for name in crew.groups if name in everybody)
    return msgspec.structs.replace(found, layouts=layouts, missing=missing)


def grown_groups(state: State) -> list[GroupId]:
    """Groups that could be larger now, or there at all; with `live` a missing one starts beside the others first."""
    crew, incomplete = state.crew, state.crew.incomplete
    if state.terms.live and not (incomplete.keys() & crew.layouts.keys()):
        return []
    back = grown(crew.layouts, assign_groups(state, incomplete)) if incomplete else []
    return [group for group in back if group in crew.layouts] if state.terms.live else back


def splits(state: State, layouts: Sequence[GroupLayout], *, resized: bool) -> bool:
    """Whether these groups can split the batch."""
    crew = state.crew
    if len(layouts) == len(crew.groups) and crew.sizes == crew.full and not resized:
        return True  # as they did when the run began
    sizes = {
        one.group: crew.sizes[one.group] if one is crew.layouts.get(one.group) else one.world_size for one in layouts
    }
    return fits(sizes, sequences=state.resolved.run.batch.sequences)


def _fit(state: State, some: Mapping[GroupId, int], *, besides: Container[GroupId]) -> bool:
    """Whether groups of these sizes can work with those that stay as they are."""
    stay = {name: size for name, size in state.crew.sizes.items() if name not in besides}
    return fits({**stay, **some}, sequences=state.resolved.run.batch.sequences)
