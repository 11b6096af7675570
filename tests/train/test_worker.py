"""Real workers over gloo, told by a fake agent: they train, agree, fail and recover."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.processes


def test_a_worker_trains_alone(make_fleet: Any) -> None:
    fleet = make_fleet(steps=4)
    fleet.launch("a", 1)
    fleet.go(fleet.ready(), [("a", 6)], memory_every=2)
    assert fleet.held() == 4
    assert list(fleet.losses("a")) == [1, 2, 3, 4]
