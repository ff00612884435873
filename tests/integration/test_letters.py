"""`dead-letter list --from`, against what real brokers hold."""

import asyncio
import json
import sqlite3
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import aio_pika
import jsonschema
import pytest
from aiormq.channel import Channel
from pamqp.common import FieldTable

from eventbus import Event, EventBus, Group, RetryPolicy, subscribe
from eventbus.cli.main import main
from eventbus.sqlite import SqliteStorage
from eventbus.testing.conformance.transport.member import an_interest, counted
from eventbus_kafka import KafkaConfig, KafkaTransport
from eventbus_rabbit import RabbitConfig, RabbitTransport
from tests.integration.rabbit.waiting import until

SCHEMAS = Path(__file__).parents[2] / "docs" / "reference" / "cli"


@dataclass(frozen=True)
class Broker:
    """A transport's URL, and where a group's letters stand."""

    url: str
    topic: str
    group: str
    scheme: str

    @property
    def place(self) -> str:
        return f"{self.scheme}:{self.topic}.{self.group}.dlq"


@pytest.fixture(params=["kafka", "rabbit"])
def broker(request: pytest.FixtureRequest) -> Broker:
    if request.param == "rabbit":
        return Broker(request.getfixturevalue("rabbit_url"), "shop", "billing", "rabbit")
    prefix = request.getfixturevalue("kafka_prefix")
    url = request.getfixturevalue("kafka_url")
    query = "provision=true&partitions=3&replication=1"
    return Broker(f"{url}?{query}", f"{prefix}shop", f"{prefix}billing", "kafka")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    def rows(self, schema: str) -> list[Mapping[str, Any]]:
        assert self.code == 0, self.err
        found = json.loads(self.out)
        jsonschema.validate(found, json.loads((SCHEMAS / f"{schema}.json").read_text()))
        rows: list[Mapping[str, Any]] = found["result"]
        return rows

    @property
    def facts(self) -> Mapping[str, Any]:
        assert self.code == 0, self.err
        found = json.loads(self.out)
        jsonschema.validate(found, json.loads((SCHEMAS / "change.json").read_text()))
        facts: Mapping[str, Any] = found["result"]
        return facts


async def listed(place: str, *flags: str) -> Ran:
    return await called("list", place, *flags)


async def redriven(place: str, *flags: str) -> Ran:
    return await called("redrive", place, *flags)


async def called(command: str, place: str, *flags: str) -> Ran:
    """In a thread with a loop of its own: a process of its own takes a second to start."""
    out, err = StringIO(), StringIO()
    args = ["dead-letter", command, "--from", place, *flags, "--timeout", "60s"]
    with redirect_stdout(out), redirect_stderr(err):
        code = await asyncio.to_thread(main, args)
    return Ran(code, out.getvalue(), err.getvalue())


async def fail_three_times(broker: Broker) -> None:
    """Letters of A-0, A-1, A-2, in this order, of one group without a storage."""

    class Placed(Event, type="shop.placed", key="order", topic=broker.topic):
        order: str

    @subscribe(Placed, group=Group(broker.group, retry=RetryPolicy(in_place=0, parked=())))
    async def refuse(event: Placed) -> None:
        raise ValueError(f"card of {event.order} refused")

    async with EventBus(broker.url, handlers=[refuse], service="shop") as bus:
        for number in range(3):
            await bus.publish(Placed(order=f"A-{number}"))
            await bus.until_idle(at_most=timedelta(seconds=30))


async def test_letters_of_a_bus_without_a_storage_are_listed_oldest_first(broker: Broker) -> None:
    await fail_three_times(broker)
    rows = (await listed(broker.place, "--transport", broker.url, "-o", "json")).rows("letters")
    assert [row["key"] for row in rows] == ["A-0", "A-1", "A-2"]
    first = rows[0]
    assert (first["type"], first["group"], first["attempts"]) == ("shop.placed", broker.group, 1)
    assert (first["reason"], first["error"]) == ("exhausted", "card of A-0 refused")
    assert first["origin"].startswith(f"{broker.scheme}:")
    facts = {
        name: first["headers"][f"native:eventbus-dead-{name}"] for name in ("first-failed-at", "at")
    }
    assert facts["first-failed-at"] <= facts["at"]
    assert json.loads(first["payload"]) == {"order": "A-0"}
    assert all(row["age_seconds"] >= 0 for row in rows)


async def test_who_looks_takes_nothing_away_and_keeps_the_order(broker: Broker) -> None:
    await fail_three_times(broker)
    looks = [await listed(broker.place, "--transport", broker.url, "-o", "json") for _ in range(2)]
    first, second = (
        [(row["id"], row["place"].split("/")[0]) for row in look.rows("letters")] for look in looks
    )
    assert first == second
    assert len(first) == 3


async def test_letters_at_a_broker_are_counted_filtered_and_cut(broker: Broker) -> None:
    await fail_three_times(broker)
    at = ("--transport", broker.url, "-o", "json")
    (count,) = (await listed(broker.place, "--by", "fingerprint", *at)).rows("counts")
    assert count["count"] == 3
    only = await listed(broker.place, "--fingerprint", count["fingerprint"], "--limit", "2", *at)
    assert [row["key"] for row in only.rows("letters")] == ["A-0", "A-1"]
    assert (await listed(broker.place, "--group", "another", *at)).rows("letters") == []


async def test_a_place_that_is_not_there_is_told_in_six_lines(broker: Broker) -> None:
    ran = await listed(f"{broker.scheme}:nowhere", "--transport", broker.url)
    assert ran.code == 3
    lines = ran.err.splitlines()
    assert lines[0].startswith("EB2205" if broker.scheme == "rabbit" else "EB2301")
    assert len(lines) <= 6
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("place", "flags"),
    [
        ("kafka:shop", ("--transport", "amqp://127.0.0.1:1/")),
        ("rabbit:shop", ()),
        ("rabbit", ("--transport", "amqp://127.0.0.1:1/")),
        ("nats:shop", ("--transport", "kafka://127.0.0.1:1")),
    ],
)
async def test_a_place_that_does_not_fit_is_wrong_usage(place: str, flags: tuple[str, ...]) -> None:
    ran = await listed(place, *flags)
    assert (ran.code, ran.err[:6]) == (2, "EB8001")


async def test_what_rabbitmq_moved_itself_says_why_and_from_where(rabbit_url: str) -> None:
    async with await aio_pika.connect(rabbit_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("graves", durable=True)
        moves: FieldTable = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "graves"}
        queue = await channel.declare_queue("work", durable=True, arguments=moves)
        body = aio_pika.Message(b"not ours", message_id="7")
        await channel.default_exchange.publish(body, routing_key="work")
        message = await queue.get(timeout=10)
        await message.reject(requeue=False)
        await channel.get_queue("graves")  # behind the rejection, on the same channel
    (row,) = (await listed("rabbit:graves", "--transport", rabbit_url, "-o", "json")).rows(
        "letters"
    )
    assert (row["id"], row["reason"], row["origin"]) == ("7", "rejected", "rabbit:work")
    assert (row["group"], row["attempts"], row["payload"]) == (None, None, "not ours")
    assert "no CloudEvents headers" in row["error"]


def rabbit(url: str) -> RabbitTransport:
    return RabbitTransport(RabbitConfig.from_url(url, "tests"))


async def looked_at_twice(broker: Broker) -> list[list[int]]:
    """Ten messages: four of them seen first, then whatever is there."""
    interest = an_interest(broker.topic, group=broker.group, order="none")
    is_rabbit = broker.scheme == "rabbit"
    place = broker.group if is_rabbit else broker.topic
    kafka = KafkaTransport(KafkaConfig.from_url(broker.url, "tests")) if not is_rabbit else None
    async with kafka or rabbit(broker.url) as transport:
        await transport.apply(await transport.plan([interest]))
        await transport.examine([interest])
        await transport.publish(counted(broker.topic, count=10))
        looks = [await transport.browse(place, limit=limit) for limit in (4, 100)]
    return [[int(each.message.payload) for each in look] for look in looks]


async def test_a_redriven_letter_reaches_the_group_that_gave_it_up_and_no_other(
    broker: Broker,
) -> None:
    seen: list[tuple[str, str]] = []
    mended = False

    class Placed(Event, type="shop.placed", key="order", topic=broker.topic):
        order: str

    @subscribe(Placed, group=Group(broker.group, retry=RetryPolicy(in_place=0, parked=())))
    async def bill(event: Placed) -> None:
        if not mended:
            raise ValueError("card refused")
        seen.append(("billing", event.order))

    @subscribe(Placed, group=f"{broker.group}-stock")
    async def pick(event: Placed) -> None:
        seen.append(("stock", event.order))

    to = ("--transport", broker.url)
    async with EventBus(broker.url, handlers=[bill, pick], service="shop") as bus:
        ids = [await bus.publish(Placed(order=f"A-{number}")) for number in range(3)]
        await bus.until_idle(at_most=timedelta(seconds=60))
        assert seen == [("stock", f"A-{number}") for number in range(3)]
        seen.clear()
        mended = True
        refused = await redriven(broker.place, *to, ids[1])
        assert (refused.code, refused.err.splitlines()[1][:6]) == (5, "EB8002")
        done = await redriven(broker.place, *to, ids[1], "--yes", "-o", "json")
        assert done.facts["count"] == 1
        await bus.until_idle(at_most=timedelta(seconds=60))
        await until(lambda: bool(seen), within=30)
        assert seen == [("billing", "A-1")]
        rest = await redriven(broker.place, *to, "--filter", f"group={broker.group}", "--yes")
        left = {"kafka": 3, "rabbit": 2}[broker.scheme]  # a log keeps what was sent again
        assert rest.out == f"{left} messages sent again\n"
        await until(lambda: len(seen) == 1 + left, within=30)
        await bus.until_idle(at_most=timedelta(seconds=60))
    assert {group for group, _ in seen} == {"billing"}
    after = await listed(broker.place, *to, "-o", "json")
    assert len(after.rows("letters")) == {"kafka": 3, "rabbit": 0}[broker.scheme]


async def test_letters_sent_again_stand_in_the_audit_of_the_storage(
    broker: Broker, tmp_path: Path
) -> None:
    await fail_three_times(broker)
    file = tmp_path / "shop.db"
    await SqliteStorage(str(file)).upgrade()
    to = ("--transport", broker.url, "--storage", f"sqlite:///{file}")
    done = await redriven(broker.place, *to, "--filter", f"group={broker.group}", "--yes")
    assert done.out == "3 messages sent again\n"
    connection = sqlite3.connect(file)
    [(told, changed)] = connection.execute(
        "SELECT selection, changed FROM eventbus_audit WHERE verb = 'redrive'"
    )
    connection.close()
    assert changed == 3
    assert json.loads(told)["from"] == broker.place
    assert json.loads(told)["group"] == broker.group


async def test_a_letter_that_names_no_group_is_not_sent_anywhere(rabbit_url: str) -> None:
    async with await aio_pika.connect(rabbit_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("graves", durable=True)
        body = aio_pika.Message(b"not ours", message_id="7")
        await channel.default_exchange.publish(body, routing_key="graves")
    ran = await redriven("rabbit:graves", "--transport", rabbit_url, "7", "--yes")
    assert ran.code == 5
    assert "EB8010" in ran.err
    missing = await redriven("rabbit:graves", "--transport", rabbit_url, "8", "--yes")
    assert (missing.code, missing.err[:6]) == (5, "EB8004")
    rows = (await listed("rabbit:graves", "--transport", rabbit_url, "-o", "json")).rows("letters")
    assert [row["id"] for row in rows] == ["7"]


async def test_browsing_stops_at_its_limit_and_leaves_everything(broker: Broker) -> None:
    assert await looked_at_twice(broker) == [[0, 1, 2, 3], list(range(10))]


async def test_a_look_that_takes_what_it_sees_is_found_out(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = Channel.basic_get

    async def take(self: Channel, queue: str) -> Any:
        return await get(self, queue, no_ack=True)

    monkeypatch.setattr(Channel, "basic_get", take)
    broker = Broker(rabbit_url, "shop", "billing", "rabbit")
    assert await looked_at_twice(broker) == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
