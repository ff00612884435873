"""What cannot be read is buried with its cause, and what follows is handled: rows 34 and 35."""

from collections.abc import Callable, Iterator
from random import Random

import pytest

from eventbus import Event, EventBus, subscribe
from tests.integration.brokers.conftest import FULL, SEED, Broker
from tests.integration.brokers.foreign import ROUTED_AS, Raw, write
from tests.integration.brokers.waiting import letters_of, until

BROKEN = 10_000 if FULL else 200
LIMIT = 1 << 16
BODY = b'{"order":"A","number":1}'


class Placed(Event):
    order: str
    number: int


def a_bus(broker: Broker, seen: list[int], url: str) -> tuple[EventBus, type[Placed]]:
    class OnTopic(Placed, type=ROUTED_AS, key="order", topic=broker.topic):
        pass

    @subscribe(OnTopic, group=broker.group)
    async def handle(event: Placed) -> None:
        seen.append(event.number)

    return EventBus(url, storage="sqlite://", handlers=[handle], service="shop"), OnTopic


def whole(number: int) -> Raw:
    """One that can be read."""
    attributes = {"specversion": b"1.0", "id": f"broken-{number}".encode(), "source": b"/others"}
    return Raw({**attributes, "type": ROUTED_AS.encode()}, BODY)


def broken(random: Random, count: int, *, has_bytes: bool) -> Iterator[Raw]:
    """Each with one fault that cannot be overlooked; `has_bytes`: an attribute need be no text."""

    def without(raw: Raw) -> Raw:
        name = random.choice(sorted(raw.attributes))
        return Raw({key: it for key, it in raw.attributes.items() if key != name}, raw.body)

    def of_another_version(raw: Raw) -> Raw:
        return Raw(
            {**raw.attributes, "specversion": random.choice([b"0.3", b"2.0", b""])}, raw.body
        )

    def no_text(raw: Raw) -> Raw:
        name = random.choice(["id", "source", "type"])
        at = random.randrange(len(raw.attributes[name]))
        value = raw.attributes[name]
        return Raw({**raw.attributes, name: value[:at] + b"\xff" + value[at:]}, raw.body)

    def truncated(raw: Raw) -> Raw:
        return Raw(raw.attributes, raw.body[: random.randrange(len(raw.body))])

    def no_json(raw: Raw) -> Raw:
        at = random.randrange(len(raw.body))
        return Raw(raw.attributes, raw.body[:at] + b"\xfe" + raw.body[at + 1 :])

    faults: list[Callable[[Raw], Raw]] = [without, of_another_version, truncated, no_json]
    if not has_bytes:
        faults.append(no_text)
    for number in range(count):
        yield faults[number % len(faults)](whole(number))


async def test_everything_that_cannot_be_read_is_buried_and_nothing_else(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 34; a type that is unknown is somebody else's on Kafka, and not routed by RabbitMQ."""
    seen: list[int] = []
    bus, event = a_bus(broker, seen, broker.url)
    async with bus:
        await bus.publish(event(order="A", number=0))
        await write(broker, list(broken(Random(SEED), BROKEN, has_bytes=broker.name == "rabbit")))
        await bus.publish(event(order="A", number=2))
        await until(lambda: seen == [0, 2], within=300)
        letters = await letters_of(bus, BROKEN)
        assert len(letters) == BROKEN
        assert all(letter["error"] for letter in letters)
        assert (await bus.health()).ready
    assert [each.getMessage() for each in caplog.records if each.exc_info] == []


async def test_a_body_over_the_limit_is_refused_here_and_buried_from_others(
    broker: Broker,
) -> None:
    """Row 35."""
    seen: list[int] = []
    join = "&" if "?" in broker.url else "?"
    bus, event = a_bus(broker, seen, f"{broker.url}{join}max_body={LIMIT}")
    async with bus:
        await bus.publish(event(order="A", number=0))
        whole_one = whole(1)
        await write(broker, [Raw(whole_one.attributes, BODY.ljust(LIMIT + 1))])
        await bus.publish(event(order="A", number=2))
        await until(lambda: seen == [0, 2])
        [letter] = await letters_of(bus, 1)
        assert len(letter["payload"]) <= LIMIT
        assert str(LIMIT) in str(letter["error"]).replace(",", "")
