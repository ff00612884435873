"""What it means that a test sees a mutant."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def seen(*kinds: type[BaseException]) -> Iterator[None]:
    """The block fails by one of these kinds, or by a group of nothing else: tasks raise groups."""
    try:
        yield
    except BaseException as failure:
        _, other = BaseExceptionGroup("", [failure]).split(kinds)
        if other is not None:
            raise
    else:
        pytest.fail("the mutant is seen by nobody")
