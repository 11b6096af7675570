"""Which batches can be divided, against counting them all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from myriarch.spec.shares import can_divide, nearest_batches

world_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=4)


def divisible(worlds: list[int], limit: int) -> set[int]:
    """All batches up to the limit: from one sequence per worker, add a group's worth at a time."""
    reached, new = set[int](), {sum(worlds)}
    while new:
        reached |= new
        new = {batch + world for batch in new for world in worlds if batch + world <= limit} - reached
    return reached


@given(world_sizes, st.integers(1, 150))
def test_agrees_with_counting(worlds: list[int], sequences: int) -> None:
    all_batches = divisible(worlds, 400)
    assert can_divide(sequences, worlds) == (sequences in all_batches)
    below = max((batch for batch in all_batches if batch <= sequences), default=None)
    above = min(batch for batch in all_batches if batch >= sequences)
    assert nearest_batches(sequences, worlds) == tuple(sorted({above, *([below] if below is not None else [])}))


def test_a_hundred_thousand_devices_in_unlike_groups_are_no_trouble() -> None:
    worlds = [8192, 12288, 4096, 2000] * 8
    assert can_divide(sum(worlds) + 16 * 1000, worlds)
    assert nearest_batches(sum(worlds) + 8, worlds) == (sum(worlds), sum(worlds) + 2000)
