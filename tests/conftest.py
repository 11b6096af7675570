"""What every test shares: how hard Hypothesis tries, and what may run beside what.

    ci     the same examples every time: a red run is red again. `make test` and continuous integration take it.
    dev    new examples every time. What plain `pytest` takes.
    deep   many more of them, for a night: HYPOTHESIS_PROFILE=deep pytest

No profile has a deadline: a shared machine is slow at times, and that is no defect.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci", derandomize=True, database=None, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dev", deadline=None)
settings.register_profile("deep", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `--dist loadgroup`: what starts real processes is one group, run one after another and begun first; of the
    rest, each file is a group, so that what a module's fixtures computed is computed once."""
    items.sort(key=lambda item: not _starts_processes(item))
    for item in items:
        group = "processes" if _starts_processes(item) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


def _starts_processes(item: pytest.Item) -> bool:
    return item.get_closest_marker("processes") is not None
