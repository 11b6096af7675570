"""What every test shares: how hard Hypothesis tries.

    ci     the same examples every time: a red run is red again. `make test` and continuous integration take it.
    dev    new examples every time. What plain `pytest` takes.
    deep   many more of them, for a night: HYPOTHESIS_PROFILE=deep pytest

No profile has a deadline: a shared machine is slow at times, and that is no defect.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci", derandomize=True, database=None, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("dev", deadline=None)
settings.register_profile("deep", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))
