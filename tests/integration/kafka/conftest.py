"""Transports on the shared broker, with names of this test, and quick enough to be waited for."""

from collections.abc import Callable

import pytest

from eventbus_kafka import KafkaConfig, KafkaTransport

QUICK = "heartbeat_seconds=0.3&session_seconds=6&provision=true&partitions=3&replication=1"

Open = Callable[..., KafkaTransport]


def on(url: str, **options: object) -> KafkaTransport:
    """One more transport there, not entered."""
    more = "".join(f"&{name}={value}" for name, value in options.items())
    known = {part.partition("=")[0] for part in QUICK.split("&")} & options.keys()
    quick = "&".join(part for part in QUICK.split("&") if part.partition("=")[0] not in known)
    join = "&" if "?" in url else "?"
    return KafkaTransport(KafkaConfig.from_url(f"{url}{join}{quick}{more}", "tests"))


@pytest.fixture
def connect(kafka_url: str) -> Open:
    """On the broker that all tests share."""
    return lambda **options: on(kafka_url, **options)


@pytest.fixture
def topic(kafka_prefix: str) -> str:
    return f"{kafka_prefix}shop"


@pytest.fixture
def group(kafka_prefix: str) -> str:
    return f"{kafka_prefix}billing"
