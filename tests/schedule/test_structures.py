"""Releases, profile, line and shortlist against the same thing done in the plainest way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.schedule import releases as releases_module
from myriarch.schedule.job import Job, JobId
from myriarch.schedule.line import SLACK, Line
from myriarch.schedule.profile import Profile
from myriarch.schedule.releases import Release, Releases

MOST = 8


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5), st.booleans()), max_size=60), st.integers(1, 40))
def test_releases(rows: list[tuple[int, int, bool]], wanted: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(releases_module, "CHUNK_LENGTH", 3)
        kept, plain = Releases(), list[Release]()
        for number, (end_s, devices, remove) in enumerate(rows):
            kept.add((float(end_s), number, devices))
            plain.append((float(end_s), number, devices))
            if remove:
                kept.remove(plain.pop(number // 2 % len(plain)))
            kept.check()
    plain.sort()
    assert len(kept) == len(plain)
    back = 0
    when: tuple[float, int] | None = None
    for instant_s in sorted({one[0] for one in plain}):
        back += sum(one[2] for one in plain if one[0] == instant_s)
        if back >= wanted:
            when = (instant_s, back)
            break
    if when is None:
        with pytest.raises(SpecError, match="never come back"):
            kept.when(wanted)
    else:
        assert kept.when(wanted) == when
    assert kept.pop_due(10.0) == [one for one in plain if one[0] <= 10.0]
    kept.check()


def test_a_release_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no such release"):
        Releases().remove((1.0, 1, 1))


promises = st.lists(
    st.tuples(st.integers(1, MOST), st.integers(1, 9), st.integers(0, 12), st.booleans(), st.integers(0, 3)),
    max_size=30,
)


@given(promises)
def test_profile(rows: list[tuple[int, int, int, bool, int]]) -> None:
    """Promises in whole seconds, against an array with a cell for each."""
    profile, plain = Profile(MOST), np.full(600, MOST)
    taken: list[tuple[int, int, int]] = []
    now_s = 0
    for devices, duration_s, after_s, give, passed_s in rows:
        now_s += passed_s
        profile.forget(now_s)
        after_s += now_s
        fits = (at for at in range(after_s, 600) if (plain[at : at + duration_s] >= devices).all())
        start_s = profile.earliest(devices, duration_s, after_s=after_s)
        assert start_s == next(fits)
        begin = int(start_s)
        plain[begin : begin + duration_s] -= devices
        profile.take(begin, begin + duration_s, devices)
        taken.append((begin, begin + duration_s, devices))
        profile.check()
        own, until, count = max(taken)
        if own >= now_s:
            without = plain.copy()
            without[own:until] += count
            first = next(at for at in range(now_s, 600) if (without[at : at + until - own] >= count).all())
            assert profile.earlier(count, until - own, after_s=now_s, than_s=own) == min(first, own)
            if give:
                profile.give(own, until, count)
                plain, taken = (
                    without,
                    [one for one in taken if one != (own, until, count)]
                    + [(own, until, count)] * (taken.count((own, until, count)) - 1),
                )
                profile.check()
        last = min(now_s + 7, 599)
        assert profile.most_free(now_s, last) == plain[now_s:last].max()
        assert [profile.free_at(at) for at in range(now_s, 200)] == plain[now_s:200].tolist()


def job(number: int, devices: int = 1, estimate_s: float = 1.0) -> Job:
    return Job(id=JobId(str(number)), submit_s=0.0, devices=devices, estimate_s=estimate_s)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99)), max_size=200),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_line(rows: list[tuple[int, int, int]], free: int, hold_s: int, spare: int) -> None:
    line, plain = Line(), list[Job]()
    for number, (devices, estimate_s, leaves) in enumerate(rows):
        one = job(number, devices, estimate_s)
        line.append(one, shape=devices, key=float(-number))
        plain.append(one)
        if leaves < 60:
            gone = plain.pop(leaves % len(plain))
            at = line.find(gone.id)
            assert at is not None
            line.remove(at)
            assert line.find(gone.id) is None
    line.check()
    assert line.jobs() == plain
    expected = [one for one in plain if one.devices <= free and (one.estimate_s <= hold_s or one.devices <= spare)]
    found = line.candidates(free_devices=free, now_s=0.0, hold_s=float(hold_s), spare_devices=spare)
    assert [line.job(at) for at in found.tolist()] == expected
    assert line.late(found, now_s=0.0, hold_s=float(hold_s)).tolist() == [one.estimate_s > hold_s for one in expected]
    assert line.like(found, 1).tolist() == [one.devices == 1 for one in expected]
    if plain:
        assert line.job(line.first) == plain[0]
        assert line.job(line.lowest()) == plain[-1]
        places = line.waiting()
        assert [line.job(at) for at in line.in_order(places)] == plain[::-1]


def test_a_line_is_closed_up() -> None:
    line = Line()
    line.append(job(-1), shape=0)
    for number in range(20 * SLACK):
        at = line.append(job(number), shape=0)
        line.remove(at)
    assert at < 2 * SLACK + 4
    assert line.jobs() == [job(-1)]
    line.check()
