"""Steps of a job from one decision to the next: where it is at any instant, without counting steps one by one."""

from __future__ import annotations

import msgspec


class Stride(msgspec.Struct, frozen=True):
    """Equal steps from an instant on, with a stop for a save after every step whose number `every` divides."""

    begun_ns: int
    first: int
    """Steps done when it begins."""
    step_ns: int
    stop_ns: int
    every: int

    def end_ns(self, step: int) -> int:
        """When the first `step` steps are done; the stop that may follow not counted."""
        stops = (step - 1) // self.every - self.first // self.every if step > self.first else 0
        return self.begun_ns + (step - self.first) * self.step_ns + stops * self.stop_ns

    def done(self, now_ns: int) -> int:
        """Steps done by then."""
        passed_ns = now_ns - self.begun_ns
        to_stop = self.every - self.first % self.every
        if passed_ns < to_stop * self.step_ns:
            return self.first + passed_ns // self.step_ns
        cycles, rest_ns = divmod(passed_ns - to_stop * self.step_ns, self.every * self.step_ns + self.stop_ns)
        inside = max(0, rest_ns - self.stop_ns) // self.step_ns
        return self.first + to_stop + cycles * self.every + inside

    def stopped_ns(self, now_ns: int) -> int:
        """Time in stops so far, that of a stop under way included."""
        done = self.done(now_ns)
        stops = done // self.every - self.first // self.every
        if not stops or done % self.every:
            return stops * self.stop_ns
        return (stops - 1) * self.stop_ns + min(now_ns - self.end_ns(done), self.stop_ns)

    def boundary_ns(self, now_ns: int) -> int:
        """When the step under way ends; a stop under way, and the step after it, count as under way."""
        return self.end_ns(self.done(now_ns) + 1)

    def saved(self, now_ns: int, *, after_ns: int) -> int:
        """The newest step whose save was begun so long ago that it is safe: `after_ns` after its stop ended. 0: none
        of this stride."""
        latest = self.done(now_ns) // self.every * self.every
        while latest > self.first and self.end_ns(latest) + self.stop_ns + after_ns > now_ns:
            latest -= self.every
        return latest if latest > self.first else 0
