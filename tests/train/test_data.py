"""Corpus, windows, and the order in which slots consume them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.spec.run import Data
from myriarch.train.counter import key_of, mix, mix_range, permute, uniform_range
from myriarch.train.data import Corpus, read_corpus, slots_of_rank

TEXT = np.arange(10_000, dtype=np.uint16).astype(np.uint8)


def corpus(*, context: int = 10, sequences: int = 7, seed: int = 1) -> Corpus:
    return Corpus(TEXT, context_tokens=context, sequences=sequences, seed=seed)


@given(st.integers(1, 300), st.integers(0, 2**64 - 1))
def test_a_permutation_sends_each_index_to_another_place(size: int, key: int) -> None:
    assert sorted(permute(key, index, size=size) for index in range(size)) == list(range(size))


def test_streams_are_pure_and_differ() -> None:
    assert mix_range(5, 10, 14).tolist() == [mix(5, index) for index in range(10, 14)]
    assert key_of("a", 1) == key_of("a", 1) != key_of("a", 2)
    assert permute(1, 7, size=1000) != permute(2, 7, size=1000)


def test_uniform_numbers_are_centred_and_have_the_deviation_asked_for() -> None:
    values = uniform_range(key_of("weights"), 0, 100_000, deviation=0.02)
    assert abs(values.mean()) < 3e-4
    assert values.std() == pytest.approx(0.02, rel=0.01)
    assert uniform_range(9, 50, 60, deviation=1.0).tolist() == uniform_range(9, 0, 100, deviation=1.0)[50:60].tolist()


def test_initial_weights_are_the_same_on_every_machine() -> None:
    """Written down once: a change here is a change of every run."""
    assert [float(value) for value in uniform_range(key_of("weight", 0, "x"), 0, 3, deviation=1.0)] == [
        -0.492387592792511,
        1.296444296836853,
        0.49265551567077637,
    ]


def test_every_sample_is_consumed_once_per_epoch() -> None:
    data = corpus()
    steps = 2 * data.samples  # 14 epochs of `samples` slots
    consumed = Counter(data.sample_of(step, slot) for step in range(steps) for slot in range(7))
    assert consumed == dict.fromkeys(range(data.samples), 14)


def test_epochs_have_unlike_orders() -> None:
    data = corpus(sequences=1)
    orders = [[data.sample_of(epoch * data.samples + i, 0) for i in range(data.samples)] for epoch in range(2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_the_sample_does_not_depend_on_who_asks() -> None:
    one, other = corpus(), corpus()
    assert one.samples_of(40, range(7)) == tuple(other.sample_of(40, slot) for slot in range(7))
    assert one.samples_of(40, range(7)) != corpus(seed=2).samples_of(40, range(7))


def test_slots_outside_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="slot 7 is outside a batch of 7"):
        corpus().sample_of(0, 7)


def test_windows_are_the_text_and_validation_is_not_trained_on() -> None:
    data = corpus()
    assert data.windows([3]).tolist() == [TEXT[30:41].tolist()]
    held_out = [tuple(row) for part in range(3) for row in data.held_out_windows(part, parts=3).tolist()]
    assert len(held_out) == data.held_out > 0
    assert data.samples + data.held_out == (TEXT.size - 1) // 10
    assert data.held_out_windows(0, parts=1)[0, 0] == TEXT[data.samples * 10]


@given(st.integers(0, 50), st.integers(0, 40), st.integers(1, 7))
def test_ranks_divide_a_share_in_order(first: int, count: int, world_size: int) -> None:
    parts = [slots_of_rank(first, count, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert [slot for part in parts for slot in part] == list(range(first, first + count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_standard_library_is_text_without_tests() -> None:
    text = read_corpus(Data())
    assert text.size > 5_000_000
    assert np.array_equal(read_corpus(Data(max_bytes=1000)), text[:1000])


def test_folders_are_read_in_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("öne")
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe")
    assert read_corpus(Data(source=str(tmp_path), pattern="**/*.txt")).tobytes() == "önetwo".encode()
    assert read_corpus(Data(source=str(tmp_path / "b.txt"))).tobytes() == b"two"


@pytest.mark.parametrize(
    ("make", "source", "message"),
    [
        (None, "missing", "there is no file or folder `{}`; name a UTF-8 file"),
        (b"", "empty.txt", "`{}` holds no text"),
        (b"ok \xff", "latin.txt", "`{}` is not UTF-8 \\(byte 3\\); convert it"),
    ],
)
def test_bad_sources_are_named(tmp_path: Path, make: bytes | None, source: str, message: str) -> None:
    path = tmp_path / source
    if make is not None:
        path.write_bytes(make)
    with pytest.raises(SpecError, match=message.format(path)):
        read_corpus(Data(source=str(path)))


def test_a_pattern_that_matches_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no file in `.*` matches `\*\.md`"):
        read_corpus(Data(source=str(tmp_path), pattern="*.md"))


def test_a_text_shorter_than_a_sequence_is_refused() -> None:
    with pytest.raises(SpecError, match="has 16 bytes, too short for a sequence of 16 tokens and one more"):
        Corpus(TEXT[:16], context_tokens=16, sequences=1, seed=0)
    shortest = Corpus(TEXT[:17], context_tokens=16, sequences=1, seed=0)
    assert (shortest.samples, shortest.held_out) == (1, 0)
