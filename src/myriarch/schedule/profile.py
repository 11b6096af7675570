"""How many devices are free from now on, by promises and estimates: a step function of time in sorted arrays.

Conservative backfilling gives every job a place in it. A search looks at all steps at once, and a change moves the tail
of two arrays: for the thousands of steps of a long queue that is microseconds, less than any tree of objects takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from myriarch.errors import SpecError

FIRST_ROOM: Final = 256
"""Steps that there is room for at first; doubled when it is used up."""


class Profile:
    """`_free[i]` devices are free during `[_times_s[i], _times_s[i + 1])`, for i in `[_first, _end)`.

    Invariant: times ascend, neighbouring steps differ, all devices are free from the last step on, for ever.
    """

    def __init__(self, devices: int, *, origin_s: float = float("-inf")) -> None:
        if devices < 1:
            raise SpecError(f"`devices: {devices}` is no machine", hint="give at least one device")
        self.devices = devices
        self._times_s = np.empty(FIRST_ROOM)
        self._free = np.empty(FIRST_ROOM, dtype=np.int64)
        self._times_s[0], self._free[0] = origin_s, devices
        self._first, self._end = 0, 1

    @classmethod
    def holding(cls, devices: int, held: Iterable[tuple[int, float]], *, origin_s: float) -> Profile:
        """Of devices that are held from the origin on, each lot of them until an instant of its own."""
        made = cls(devices, origin_s=origin_s)
        until: dict[float, int] = {}
        for count, until_s in held:
            if until_s > origin_s:
                until[until_s] = until.get(until_s, 0) + count
        ends_s = sorted(until)
        back = np.cumsum([0, *(until[end_s] for end_s in ends_s)])
        steps = len(back)
        while len(made._times_s) < steps + 2:
            made._times_s = np.resize(made._times_s, 2 * len(made._times_s))
            made._free = np.resize(made._free, 2 * len(made._free))
        made._times_s[:steps] = [origin_s, *ends_s]
        made._free[:steps] = devices - int(back[-1]) + back
        made._end = steps
        return made

    def __len__(self) -> int:
        return self._end - self._first

    def free_at(self, at_s: float) -> int:
        """Devices free at an instant."""
        return int(self._free[self._index(at_s)])

    def forget(self, before_s: float) -> None:
        """Drop the steps that are over."""
        self._first = self._index(before_s)

    def earliest(self, devices: int, duration_s: float, *, after_s: float) -> float:
        """The first instant from which so many devices are free for so long without a break."""
        first = self._index(after_s)
        return _first_gap(
            self._times_s[first : self._end],
            self._free[first : self._end] < devices,
            duration_s,
            after_s=after_s,
        )

    def earlier(self, devices: int, duration_s: float, *, after_s: float, than_s: float) -> float:
        """The same for somebody who has devices from `than_s` on and would give them up; at most `than_s`."""
        first, own = self._index(after_s), self._before(than_s) + 1
        blocked = self._free[first:own] < devices
        if blocked.all():
            return than_s
        # From `than_s` on nothing is in its way but itself.
        times_s = np.concatenate((self._times_s[first:own], (than_s,)))
        return min(than_s, _first_gap(times_s, np.concatenate((blocked, (False,))), duration_s, after_s=after_s))

    def most_free(self, from_s: float, until_s: float) -> int:
        """The largest number of devices free at once between two instants."""
        return int(self._free[self._index(from_s) : self._before(until_s) + 1].max())

    def take(self, from_s: float, until_s: float, devices: int) -> None:
        """Promise devices to somebody."""
        self._change(from_s, until_s, -devices)

    def give(self, from_s: float, until_s: float, devices: int) -> None:
        """Somebody does not need them after all."""
        self._change(from_s, until_s, devices)

    def steps(self) -> list[tuple[float, int]]:
        """All steps: instant, devices free from then on."""
        span = slice(self._first, self._end)
        return list(zip(self._times_s[span].tolist(), self._free[span].tolist(), strict=True))

    def columns(self, *, from_s: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The same from an instant on, in arrays; the free devices are not to be written to."""
        first = self._index(from_s)
        return np.maximum(self._times_s[first : self._end], from_s), self._free[first : self._end]

    def check(self) -> None:
        """Assert the invariant."""
        times_s, free = self._times_s[self._first : self._end], self._free[self._first : self._end]
        assert (np.diff(times_s) > 0).all()
        assert (np.diff(free) != 0).all()
        assert (free >= 0).all()
        assert (free <= self.devices).all()
        assert free[-1] == self.devices

    def _index(self, at_s: float) -> int:
        """The step that an instant is in."""
        found = self._times_s[self._first : self._end].searchsorted(at_s, side="right")
        return self._first + int(found) - 1

    def _before(self, at_s: float) -> int:
        """The last step that begins before an instant."""
        return self._first + int(self._times_s[self._first : self._end].searchsorted(at_s)) - 1

    def _change(self, from_s: float, until_s: float, devices: int) -> None:
        if self._end + 2 > len(self._times_s):
            self._make_room()
        begin = self._step_at(from_s)
        end = self._step_at(until_s)
        self._free[begin:end] += devices
        self._join(end)
        self._join(begin)

    def _step_at(self, at_s: float) -> int:
        """The step that begins at an instant, made where there is none."""
        at = self._index(at_s)
        if self._times_s[at] == at_s:
            return at
        after, end = at + 1, self._end
        self._times_s[after + 1 : end + 1] = self._times_s[after:end]
        self._free[after + 1 : end + 1] = self._free[after:end]
        self._times_s[after], self._free[after] = at_s, self._free[at]
        self._end += 1
        return after

    def _join(self, at: int) -> None:
        """Make one step of two that do not differ."""
        if at > self._first and self._free[at] == self._free[at - 1]:
            self._times_s[at : self._end - 1] = self._times_s[at + 1 : self._end]
            self._free[at : self._end - 1] = self._free[at + 1 : self._end]
            self._end -= 1

    def _make_room(self) -> None:
        count = len(self)
        room = len(self._times_s) * (2 if count * 2 > len(self._times_s) else 1)
        for name in ("_times_s", "_free"):
            old = getattr(self, name)
            new = np.empty(room, dtype=old.dtype)
            new[:count] = old[self._first : self._end]
            setattr(self, name, new)
        self._first, self._end = 0, count


def _first_gap(times_s: NDArray[np.float64], blocked: NDArray[np.bool_], duration_s: float, *, after_s: float) -> float:
    """Begin of the first stretch without a blocked step that lasts so long; the last step lasts for ever."""
    at = np.flatnonzero(blocked)
    if not len(at) or after_s + duration_s <= times_s[at[0]]:
        return after_s
    begins_s = times_s[at + 1]
    fits = begins_s[:-1] + duration_s <= times_s[at[1:]]
    first = int(fits.argmax()) if len(fits) else 0
    return float(begins_s[first if len(fits) and fits[first] else -1])
