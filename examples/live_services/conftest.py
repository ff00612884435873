"""Which bus is under test; in a project of its own `[tool.eventbus] app` says it too."""

import pytest

from eventbus import EventBus
from examples.live_services import app


@pytest.fixture
def eventbus_app() -> EventBus:
    """Not entered: the fixtures copy it."""
    return app.bus
