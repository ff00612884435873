"""What holds for every test on more than one part: a busy machine is not their business."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from eventbus import EventBus


@pytest.fixture(autouse=True, scope="session")
def patience() -> Iterator[None]:
    """`until_idle` waits for as long as a test may take, unless it is told otherwise."""
    with pytest.MonkeyPatch.context() as patching:
        usual = {"at_most": timedelta(seconds=90)}
        patching.setattr(EventBus.until_idle, "__kwdefaults__", usual)
        yield
