"""Fragmentation by its definition, and packing that never overbooks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from myriarch.schedule.fgd import MILLI, Cluster, Host, Packer, Rule, Task, Typical, fragmentation

RULES: tuple[Rule, ...] = ("fgd", "best-fit", "packing", "clustering", "dot-product", "random")

tasks = st.builds(
    lambda cores, need, models: Task(cores, 1000, need[0], need[1], frozenset(models)),
    st.integers(0, 12).map(lambda cores: 1000 * cores),
    st.sampled_from(((0, 0), (1, 200), (1, 500), (1, 700), (1, MILLI), (2, MILLI), (4, MILLI))),
    st.sampled_from(((), ("a",), ("a", "b"))),
)
hosts = st.builds(
    lambda cores, devices, model: Host(1000 * cores, 64_000, devices, model),
    st.integers(4, 32),
    st.sampled_from((1, 2, 4)),
    st.sampled_from(("a", "b")),
)


def by_definition(free: list[int], cores: int, model: str, typical: Typical) -> float:
    """The paper's, word by word."""
    total = 0.0
    for task, share in zip(typical.tasks, typical.shares, strict=True):
        takes = not task.models or model in task.models
        runs = takes and cores >= task.cores_milli and sum(part >= task.parts for part in free) >= task.devices
        if task.devices == 0 or not runs:
            total += share * sum(free)
        else:
            total += share * sum(part for part in free if part < task.parts)
    return total


@settings(max_examples=40)
@given(st.lists(tasks, min_size=1, max_size=12), st.lists(hosts, min_size=1, max_size=4), st.data())
def test_fragmentation_is_as_defined(expected: list[Task], nodes: list[Host], data: st.DataObject) -> None:
    typical = Typical.of(expected, covered=1.0)
    assert typical.shares.sum() == pytest.approx(1.0)
    cluster = Cluster(nodes)
    for index, node in enumerate(nodes):
        cluster.parts[index, : node.devices] = data.draw(
            st.lists(st.sampled_from((0, 200, 300, 500, 1000)), min_size=node.devices, max_size=node.devices)
        )
    takes = np.array([cluster.takes(task) for task in typical.tasks]).T
    found = fragmentation(cluster.parts, cluster.cores, takes, typical)
    for index, node in enumerate(nodes):
        free = [int(part) for part in cluster.parts[index, : node.devices]]
        assert found[index] == pytest.approx(by_definition(free, node.cores_milli, node.model, typical))


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=10)
@given(arriving=st.lists(tasks, min_size=1, max_size=30), nodes=st.lists(hosts, min_size=1, max_size=5))
def test_nothing_is_overbooked_and_nothing_that_fits_is_refused(
    rule: Rule, arriving: list[Task], nodes: list[Host]
) -> None:
    cluster = Cluster(nodes)
    packer = Packer(cluster, rule=rule, typical=Typical.of(arriving), draw=lambda: 0.5)
    for task in arriving:
        fitted = cluster.fits(task, np.arange(len(nodes))).any()
        placed = packer.place(task)
        assert (placed is not None) == fitted
        if placed is not None:
            assert len(placed[1]) == task.devices
            assert not task.devices or not task.models or nodes[placed[0]].model in task.models
        cluster.check()


@settings(max_examples=10)
@given(st.lists(tasks, min_size=1, max_size=20), st.lists(hosts, min_size=1, max_size=4))
def test_what_is_kept_is_what_would_be_found_anew(arriving: list[Task], nodes: list[Host]) -> None:
    """A packer that has seen everything, and one that is asked for the first time, choose alike."""
    typical = Typical.of(arriving)
    cluster = Cluster(nodes)
    packer = Packer(cluster, rule="fgd", typical=typical)
    for task in arriving:
        other = Cluster(nodes)
        other.parts, other.cores, other.memory = cluster.parts.copy(), cluster.cores.copy(), cluster.memory.copy()
        fresh = Packer(other, rule="fgd", typical=typical).place(task)
        assert packer.place(task) == fresh


def test_the_papers_motive() -> None:
    """Packing by what is free may strand what is to come. Half-device tasks are to come with few cores, and
    whole ones with many; the node that has cores keeps its whole device."""
    rich, poor = Host(32_000, 64_000, 1, "a"), Host(4_000, 64_000, 1, "a")
    half, whole = Task(2_000, 0, 1, 500), Task(16_000, 0, 1, MILLI)
    typical = Typical.of([half, half, whole, whole])
    cluster = Cluster([rich, poor])
    assert Packer(cluster, rule="fgd", typical=typical).place(half) == (1, (0,))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "random"])
def test_of_equals_the_first_node_is_taken(rule: Rule) -> None:
    """Whatever they are called; scores are whole numbers, so nodes that differ by little are equals, too."""
    alike = [Host(64_000, 64_000, 2, "a"), Host(64_010, 64_000, 2, "b")]
    half = Task(2_000, 0, 1, 500)
    for nodes in (alike, alike[::-1]):
        placed = Packer(Cluster(nodes), rule=rule, typical=Typical.of([half])).place(half)
        assert placed == (0, (0,))


def test_rules_that_lack_something() -> None:
    cluster = Cluster([Host(1000, 1000, 1)])
    with pytest.raises(ValueError, match="give `typical`"):
        Packer(cluster, rule="fgd")
    with pytest.raises(ValueError, match="give `draw`"):
        Packer(cluster, rule="random")
