"""The SDK of CloudEvents between records and events; JSON lines in, JSON lines out.

cloud_events.py understand kafka|rabbit                      records -> attributes and data
cloud_events.py make kafka|rabbit binary|structured          attributes and data -> records
"""

import json
import sys
from datetime import datetime
from typing import Any

from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings import kafka, rabbitmq
from cloudevents.core.v1.event import CloudEvent


def main() -> None:
    """Run the command of the arguments on every line of stdin."""
    command, broker, *mode = sys.argv[1:]
    for line in sys.stdin:
        what = json.loads(line)
        done = understood(broker, what) if command == "understand" else made(broker, mode[0], what)
        print(json.dumps(done))


def understood(broker: str, record: dict[str, Any]) -> dict[str, Any]:
    """What the SDK finds in it, in the mode that it detects by itself."""
    event = from_kafka(record) if broker == "kafka" else from_rabbit(record)
    attributes = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in event.get_attributes().items()
    }
    return {"attributes": attributes, "data": event.get_data()}


def from_kafka(record: dict[str, Any]) -> BaseCloudEvent:
    """From a line of `kafka_records.py read`."""
    headers = {name: bytes.fromhex(value) for name, value in record["headers"]}
    key = None if record["key"] is None else bytes.fromhex(record["key"])
    return kafka.from_kafka_event(
        kafka.KafkaMessage(headers=headers, key=key, value=bytes.fromhex(record["value"]))
    )


def from_rabbit(record: dict[str, Any]) -> BaseCloudEvent:
    """From a line of `amqp_messages.py read`."""
    return rabbitmq.from_rabbitmq_event(
        rabbitmq.RabbitMQMessage(
            headers=record["headers"] or {},
            content_type=record["content_type"],
            body=bytes.fromhex(record["body"]),
        )
    )


def made(broker: str, mode: str, what: dict[str, Any]) -> dict[str, Any]:
    """A line for the `write` of the broker's program."""
    attributes = dict(what["attributes"])
    attributes["time"] = datetime.fromisoformat(attributes["time"])
    event = CloudEvent(attributes, what["data"])
    binding = kafka if broker == "kafka" else rabbitmq
    record = getattr(binding, f"to_{mode}_event")(event)
    if broker == "rabbit":
        return {
            "headers": record.headers,
            "content_type": record.content_type,
            "body": record.body.hex(),
        }
    key = record.key.encode() if isinstance(record.key, str) else record.key
    return {
        "key": None if key is None else key.hex(),
        "value": record.value.hex(),
        "headers": [[name, value.hex()] for name, value in record.headers.items()],
    }


if __name__ == "__main__":
    main()
