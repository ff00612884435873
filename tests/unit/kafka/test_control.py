"""Whether the cluster answers: told when it changes, not at every look."""

import logging

import pytest

from eventbus_kafka.config import KafkaConfig
from eventbus_kafka.control import Control


def test_an_outage_is_told_when_it_begins_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    control = Control(KafkaConfig.from_url("kafka://localhost:9092"))
    control.trouble = None
    for trouble in ("cannot reach Kafka", "Kafka does not answer", None, None):
        control._say(trouble)
        assert control.trouble == trouble
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", "cannot reach Kafka"),
        ("INFO", "Kafka at localhost:9092 answers again"),
    ]
