"""Where the controller listens."""

from __future__ import annotations

import pytest

from myriarch.errors import EnvironmentFault
from myriarch.run.controller import ADDRESS, bind, bind_again


def test_a_port_in_use_is_said_with_a_remedy() -> None:
    with bind(0) as first:
        port = first.getsockname()[1]
        with pytest.raises(EnvironmentFault, match=f"{ADDRESS}:{port}: Address already in use") as refused:
            bind(port)
        assert str(port) in refused.value.hint


def test_a_restarted_controller_takes_its_port_again_or_another() -> None:
    with bind(0) as first:
        port = first.getsockname()[1]
        with bind_again(port) as other:
            assert other.getsockname()[1] not in (0, port), "a stranger has the old one"
    with bind_again(port) as again:
        assert again.getsockname()[1] == port
