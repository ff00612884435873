"""A bus on Kafka, with each storage and without one."""

from datetime import timedelta

import pytest
from aiokafka import AIOKafkaProducer

from eventbus import Context, Event, EventBus, Group, RetryPolicy, subscribe
from tests.integration.kafka.conftest import Open
from tests.integration.kafka.waiting import until


class Placed(Event):
    order: str
    number: int = 0


@pytest.fixture(params=["none", "sqlite", "postgres"])
def storage(request: pytest.FixtureRequest) -> str | None:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return None if request.param == "none" else "sqlite://"


def placed(topic: str) -> type[Placed]:
    """The event on a topic of this test."""

    class OnTopic(Placed, type="kafka.placed", key="order", topic=topic):
        pass

    return OnTopic


async def test_events_are_handled_once_and_in_order_of_their_key(
    connect: Open, topic: str, group: str, storage: str | None
) -> None:
    event_class = placed(topic)
    seen: dict[str, list[int]] = {}

    @subscribe(event_class, group=group)
    async def handle(event: Placed) -> None:
        seen.setdefault(event.order, []).append(event.number)

    bus = EventBus(connect(), storage=storage, handlers=[handle], service="shop")
    if storage is not None:
        await bus.upgrade()
    async with bus:
        for number in range(50):
            await bus.publish(event_class(order=f"A-{number % 5}", number=number))
        await until(lambda: sum(map(len, seen.values())) == 50)
        await bus.until_idle(at_most=timedelta(seconds=20))
        assert (await bus.health()).ready
    for key in range(5):
        assert seen[f"A-{key}"] == list(range(key, 50, 5))


async def test_a_failing_message_is_parked_and_its_key_waits(
    connect: Open, topic: str, group: str
) -> None:
    event_class = placed(topic)
    seen: list[int] = []
    tries = 0

    @subscribe(
        event_class,
        group=Group(group, retry=RetryPolicy(in_place=0, parked=(timedelta(milliseconds=50),))),
    )
    async def handle(event: Placed, ctx: Context) -> None:
        nonlocal tries
        if event.number == 0 and ctx.attempt == 1:
            tries += 1
            raise ConnectionError("not yet")
        seen.append(event.number)

    async with EventBus(connect(), storage="sqlite://", handlers=[handle], service="shop") as bus:
        for number in range(5):
            await bus.publish(event_class(order="A-1", number=number))
        await until(lambda: len(seen) == 5)
    assert seen == list(range(5))
    assert tries == 1


async def test_without_a_storage_a_dead_letter_goes_to_its_topic(
    connect: Open, topic: str, group: str
) -> None:
    event_class = placed(topic)

    @subscribe(event_class, group=Group(group, retry=RetryPolicy(in_place=0, parked=())))
    async def handle(event: Placed) -> None:
        if event.number == 1:
            raise ValueError("never")

    transport = connect(partitions=2)
    async with EventBus(transport, handlers=[handle], service="shop") as bus:
        for number in range(3):
            await bus.publish(event_class(order="A-1", number=number))
        await bus.until_idle(at_most=timedelta(seconds=20))
        letters = [
            delivery.message
            async for batch in transport.replay([f"{topic}.{group}.dlq"], start="first", stop="now")
            for delivery in batch
        ]
    (letter,) = letters
    assert letter.type == "kafka.placed"
    assert letter.key == "A-1"
    assert letter.headers["native:eventbus-dead-group"] == group
    assert letter.headers["native:eventbus-dead-origin"].startswith(f"kafka:{topic}/")


async def test_records_of_others_are_handled_under_the_declared_type(
    connect: Open, topic: str, group: str
) -> None:
    seen: list[tuple[int, str | None, str]] = []

    class Legacy(Event, type="legacy.order-placed", topic=topic):
        order: int

    @subscribe(Legacy, group=group)
    async def handle(event: Legacy, ctx: Context) -> None:
        seen.append((event.order, ctx.message.key, ctx.message.id))

    transport = connect(foreign=f"{topic}:legacy.order-placed", partitions=1, cluster="prod")
    async with EventBus(transport, storage="sqlite://", handlers=[handle], service="shop"):
        producer = AIOKafkaProducer(bootstrap_servers=list(transport.config.servers))
        await producer.start()
        await producer.send_and_wait(topic, b'{"order": 1}', key=b"A-1")
        await producer.stop()
        await until(lambda: bool(seen))
    assert seen == [(1, "A-1", f"prod/{topic}/0/0")]


async def test_a_structured_event_arrives_with_the_type_of_its_envelope(
    connect: Open, topic: str, group: str
) -> None:
    event_class = placed(topic)
    seen: list[tuple[str, str]] = []

    @subscribe(event_class, group=group)
    async def handle(event: Placed, ctx: Context) -> None:
        seen.append((event.order, ctx.message.id))

    transport = connect(foreign=f"{topic}:legacy.order-placed", partitions=1)
    async with EventBus(transport, storage="sqlite://", handlers=[handle], service="shop"):
        producer = AIOKafkaProducer(bootstrap_servers=list(transport.config.servers))
        await producer.start()
        await producer.send_and_wait(
            topic,
            b'{"specversion":"1.0","id":"7","source":"/x","type":"kafka.placed","data":{"order":"A"}}',
            headers=[("content-type", b"application/cloudevents+json")],
        )
        await producer.stop()
        await until(lambda: bool(seen))
    assert seen == [("A", "7")]
