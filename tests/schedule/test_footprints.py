"""Rows of a program that say whether gangs fit into nodes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.schedule.footprints import ROWS_MOST, Footprints
from myriarch.schedule.layout import PoolLayout


def pool(nodes: int, per_node: int, name: str = "p") -> PoolLayout:
    return PoolLayout(name=name, nodes=nodes, devices_per_node=per_node)


def fits(footprints: Footprints, gangs: list[tuple[int, int]], devices: int) -> bool:
    taken = np.sum([footprints.of("p", nodes=nodes, each=each) for nodes, each in gangs], axis=0)
    return bool((taken <= footprints.room({"p": devices})).all())


def test_two_gangs_of_ten_do_not_fit_on_two_nodes_of_eight_beside_nothing_but_small_ones() -> None:
    footprints = Footprints([pool(2, 8)])
    assert fits(footprints, [(2, 5), (1, 3), (1, 3)], 16)
    assert not fits(footprints, [(2, 5), (1, 4)], 16)  # six are free, three by three
    assert not fits(footprints, [(1, 6), (1, 6), (1, 3)], 16)
    assert fits(footprints, [(2, 8)], 16)


def test_pools_have_their_own_rows() -> None:
    footprints = Footprints([pool(2, 8, "a"), pool(3, 1, "b")])
    room = footprints.room({"a": 8, "b": 3})
    assert room.tolist() == [8.0] * 4 + [3.0]
    assert footprints.of("b", nodes=2, each=1).tolist() == [0.0] * 4 + [2.0]


@pytest.mark.parametrize("per_node", [1, 2, 3, 16, 512])
def test_the_first_row_counts_devices_and_there_are_few(per_node: int) -> None:
    footprints = Footprints([pool(4, per_node)])
    assert footprints.of("p", nodes=3, each=1)[0] == 3.0
    assert 1 <= footprints.rows <= ROWS_MOST


@given(st.integers(1, 9), st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=4))
def test_what_is_packed_is_never_refused(per_node: int, nodes: list[list[int]]) -> None:
    packed = []
    for pieces in nodes:  # of each node, as many of its pieces as it has room for
        room = list(itertools.accumulate(pieces))
        packed += [(1, piece) for piece, used in zip(pieces, room, strict=True) if used <= per_node]
    assert not packed or fits(Footprints([pool(len(nodes), per_node)]), packed, len(nodes) * per_node)
