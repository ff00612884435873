"""The same bus on each broker; names are of this test, and waits are short enough to be met.

`EVENTBUS_FAULTS=full` for what takes long.
"""

import os
from dataclasses import dataclass

import pytest

FULL = os.environ.get("EVENTBUS_FAULTS") == "full"
SEED = int(os.environ.get("EVENTBUS_SEED", "1"))
long = pytest.mark.skipif(not FULL, reason="capability: the long tier")

_KAFKA = "provision=true&partitions=3&replication=1&heartbeat_seconds=0.3&session_seconds=6"


@dataclass(frozen=True)
class Broker:
    """Where a bus of this test publishes and consumes."""

    name: str
    url: str
    topic: str
    group: str

    def alone(self) -> str:
        """The URL for the only process of the group: whoever follows a dead one need not wait."""
        return f"{self.url}&group_instance_id={self.group}" if self.name == "kafka" else self.url


@pytest.fixture(params=["kafka", "rabbit"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Kafka, then RabbitMQ."""
    if request.param == "rabbit":
        return Broker("rabbit", request.getfixturevalue("rabbit_url"), "shop", "billing")
    prefix = request.getfixturevalue("kafka_prefix")
    url = f"{request.getfixturevalue('kafka_url')}?{_KAFKA}"
    return Broker("kafka", url, f"{prefix}shop", f"{prefix}billing")
