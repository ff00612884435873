"""Records of Kafka through confluent-kafka, as JSON lines; bytes are hexadecimal.

kafka_records.py read SERVERS TOPIC COUNT           what stands in a topic, partition by partition
kafka_records.py write SERVERS TOPIC                records on stdin; prints where each one went
kafka_records.py committed SERVERS TOPIC GROUP      offsets of a group
kafka_records.py commit SERVERS TOPIC GROUP PARTITION OFFSET
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

SECONDS = 30.0


def main() -> None:
    """Run the command of the arguments."""
    command, servers, topic, *rest = sys.argv[1:]
    commands: dict[str, Callable[..., None]] = {
        "read": read,
        "write": write,
        "committed": committed,
        "commit": commit,
    }
    commands[command](servers, topic, *rest)


def read(servers: str, topic: str, count: str) -> None:
    """Print the first records of every partition, without any group noticing."""
    consumer = consumer_of(servers, "read-by-nobody")
    consumer.assign([TopicPartition(topic, part, 0) for part in partitions(consumer, topic)])
    left, deadline = int(count), time.monotonic() + SECONDS
    while left:
        record = consumer.poll(0.2)
        if record is None:
            if time.monotonic() > deadline:
                sys.exit(f"{left} of {count} records did not come")
            continue
        if record.error() is not None:
            sys.exit(str(record.error()))
        left -= 1
        say(
            partition=record.partition(),
            offset=record.offset(),
            timestamp=record.timestamp()[1],
            key=to_hex(record.key()),
            value=to_hex(record.value()),
            headers=[[name, to_hex(value)] for name, value in record.headers() or []],
        )
    consumer.close()


def write(servers: str, topic: str) -> None:
    """Keys go where Java clients put them: librdkafka's own default is another hash."""
    producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random"})
    for line in sys.stdin:
        record = json.loads(line)
        producer.produce(
            topic,
            key=from_hex(record.get("key")),
            value=from_hex(record.get("value")),
            headers=[(name, from_hex(value)) for name, value in record.get("headers", [])],
            on_delivery=delivered,
        )
    if producer.flush(SECONDS):
        sys.exit("not everything was sent")


def delivered(error: object, record: Any) -> None:
    """Where it went."""
    if error is not None:
        sys.exit(str(error))
    say(key=to_hex(record.key()), partition=record.partition(), offset=record.offset())


def committed(servers: str, topic: str, group: str) -> None:
    """What the group would go on with; -1001: nothing is committed."""
    consumer = consumer_of(servers, group)
    wanted = [TopicPartition(topic, part) for part in partitions(consumer, topic)]
    for place in consumer.committed(wanted, SECONDS):
        say(partition=place.partition, offset=place.offset)
    consumer.close()


def commit(servers: str, topic: str, group: str, partition: str, offset: str) -> None:
    """As an operator moves a group that is not running."""
    consumer = consumer_of(servers, group)
    place = TopicPartition(topic, int(partition), int(offset))
    for done in consumer.commit(offsets=[place], asynchronous=False):
        if done.error is not None:
            sys.exit(str(done.error))
    consumer.close()


def consumer_of(servers: str, group: str) -> Consumer:
    """It joins no group: it only assigns and commits."""
    return Consumer(
        {"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": "false"}
    )


def partitions(consumer: Consumer, topic: str) -> list[int]:
    """All of them."""
    return sorted(consumer.list_topics(topic, SECONDS).topics[topic].partitions)


def to_hex(raw: bytes | None) -> str | None:
    """None stays None: a tombstone is no empty value."""
    return None if raw is None else raw.hex()


def from_hex(text: str | None) -> bytes | None:
    """The other way round."""
    return None if text is None else bytes.fromhex(text)


def say(**fields: object) -> None:
    """One line."""
    print(json.dumps(fields))


if __name__ == "__main__":
    main()
