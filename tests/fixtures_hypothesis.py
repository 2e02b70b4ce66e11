"""How Hypothesis runs here: no test depends on the speed of the machine.

Locally each run draws new examples and keeps a failing one in ``.hypothesis``. Where ``CI`` is
set, the examples follow from the test's source alone: a red run is due to the commit, and a second
run of the same commit gives the same result. New examples are found where someone can act on them.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

__all__ = ["SHARED_FIXTURE", "register_profile"]

SHARED_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
"""For ``@settings(suppress_health_check=...)`` of tests whose examples may share one fixture."""


def register_profile() -> None:
    """Load the profile that every test inherits: no deadline, no health check of speed."""
    settings.register_profile(
        "fer-edge",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize="CI" in os.environ,
        database=None if "CI" in os.environ else settings.default.database,
        print_blob=True,
    )
    settings.load_profile("fer-edge")
