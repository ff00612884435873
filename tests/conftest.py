"""What holds for every test.

Examples are not timed: how long one takes is the machine's business, not the code's.
"""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def often() -> Iterator[tuple[int, int, int]]:
    """How often the collector looks at objects; a command that runs in this process changes it."""
    before = gc.get_threshold()
    yield before
    gc.set_threshold(*before)
    gc.unfreeze()
