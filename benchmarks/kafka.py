"""N5 and N5b: typed events through Kafka, beside aiokafka by hand, on one real broker.

A native broker on this machine is started if none runs (`eventbus.testing.services`). Raw means
what people write: `async for record in consumer`, `send_and_wait`, the same headers, the same
topic, offsets committed once a second.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.in_memory import IN_FLIGHT, Count, on_all
from benchmarks.measure import Clock
from benchmarks.message import OrderFields, OrderPlaced, fields, raw_orders
from benchmarks.rounds import Bar, Case, Figures, Goal
from eventbus import EventBus, subscribe
from eventbus.message import new_id
from eventbus.testing.services import running
from eventbus.testing.services.kafka import delete_topics

N = 40_000
PARTITIONS = 6
HEADERS = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"0198b8f1-0000-7000-8000-000000000000"),
    ("ce_source", b"/bench"),
    ("ce_type", b"bench.order-placed"),
    ("ce_partitionkey", b"0198b8f1-0000-7000-8000-000000000000"),
    ("ce_time", b"2026-01-02T03:04:05.678901Z"),
    ("ce_dataschema", b"urn:eventbus:schema:bench.order-placed:1"),
    ("ce_correlationid", b"0198b8f1-0000-7000-8000-000000000000"),
]
Work = Callable[[str, int, Clock], Awaitable[None]]
OnTopic = Callable[[str, int], AbstractAsyncContextManager[str]]


def consuming() -> Bar:
    """N5: what stands in the log already, each record validated and handled."""
    bound = Goal(figure="cpu_us", at_most=12.0)
    return Bar(
        name="N5",
        what="Kafka: consume, typed",
        ratio_of="cpu_us",
        cases=[
            Case(bar="N5", name="aiokafka record by record", n=N, run=on_broker(record_by_record)),
            Case(bar="N5", name="aiokafka getmany", n=N, run=on_broker(by_getmany)),
            Case(bar="N5", name="eventbus", n=N, run=on_broker(handled), goal=bound),
            *_peer("N5", "FastStream", "consumed_from_kafka", filled),
        ],
    )


def publishing() -> Bar:
    """N5b: confirmed by the broker, a hundred in flight; and through to the handler."""
    return Bar(
        name="N5B",
        what="Kafka: produce, and end to end",
        ratio_of="cpu_us",
        cases=[
            Case(bar="N5B", name="aiokafka send_and_wait", n=N, run=on_broker(send_and_wait)),
            Case(
                bar="N5B",
                name="eventbus, publish",
                n=N,
                run=on_broker(published),
                goal=Goal(figure="cpu_us", at_most=20.0),
            ),
            Case(bar="N5B", name="aiokafka end to end", n=N, run=on_broker(both_by_hand)),
            Case(
                bar="N5B",
                name="eventbus, end to end",
                n=N,
                run=on_broker(published_and_handled),
                goal=Goal(figure="cpu_us", at_most=60.0),
            ),
            *_peer("N5B", "FastStream, publish", "published_to_kafka", topic_of),
            *_peer("N5B", "FastStream, end to end", "through_kafka", topic_of),
        ],
    )


def _peer(bar: str, name: str, work: str, topic: OnTopic) -> list[Case]:
    """FastStream, where it is installed."""
    if find_spec("faststream") is None:
        return []
    from benchmarks import faststream_peer

    async def run(url: str, n: int, clock: Clock) -> None:
        async with topic(url, n) as there:
            await getattr(faststream_peer, work)(servers(url), there, n, clock)

    return [Case(bar=bar, name=name, n=N, run=on_broker(run))]


def on_broker(work: Work) -> Callable[[int], Figures]:
    """A run of it in a loop of its own."""

    async def run(url: str, n: int) -> Figures:
        clock = Clock()
        await work(url, n, clock)
        return {
            "rate": n / clock.seconds,
            "cpu_us": clock.cpu_seconds / n * 1e6,
            "noise": clock.noise,
        }

    def figures(n: int) -> Figures:
        with running("kafka") as service:
            return asyncio.run(run(service.url, n))

    return figures


def servers(url: str) -> str:
    return url.removeprefix("kafka://")


def bus_url(url: str) -> str:
    return f"{url}?provision=true&partitions={PARTITIONS}&replication=1"


def here(topic: str) -> type[OrderPlaced]:
    """The message of all benchmarks on a topic of this run."""

    class Here(OrderPlaced, type="bench.order-placed", key="order_id", topic=topic):
        pass

    return Here


def maker(topic: str) -> Callable[[int], OrderPlaced]:
    """Makes the n-th one."""
    cls = here(topic)
    return lambda number: cls(**fields(number))


@asynccontextmanager
async def topic_of(url: str, _: int = 1) -> AsyncIterator[str]:
    """A topic of this run with one message; deleted afterwards."""
    topic = f"bench-{new_id()}"
    try:
        async with EventBus(bus_url(url), service="bench").client() as bus:
            await bus.publish(here(topic)(**fields(0)))
        yield topic
    finally:
        await asyncio.to_thread(delete_topics, url, topic)


@asynccontextmanager
async def filled(url: str, n: int) -> AsyncIterator[str]:
    """One that holds so many."""
    async with topic_of(url) as topic:
        event = maker(topic)
        async with EventBus(bus_url(url), service="bench").client() as bus:
            for start in range(1, n, 1000):
                ends = min(n, start + 1000)
                await asyncio.gather(*(bus.publish(event(number)) for number in range(start, ends)))
        yield topic


async def record_by_record(url: str, n: int, clock: Clock) -> None:
    """The loop that people write."""
    async with filled(url, n) as topic:
        reader = await reader_of(url, topic)
        await reader.getone()  # joined, and the first fetch is there
        left, committed = n - 1, time.monotonic()
        with clock:
            async for record in reader:
                OrderFields.model_validate_json(record.value or b"")
                left -= 1
                if not left:
                    break
                if time.monotonic() - committed > 1:
                    await reader.commit()
                    committed = time.monotonic()
            await reader.commit()
        await reader.stop()


async def by_getmany(url: str, n: int, clock: Clock) -> None:
    """Batch by batch, a commit each."""
    async with filled(url, n) as topic:
        reader = await reader_of(url, topic)
        await reader.getone()
        left = n - 1
        with clock:
            while left:
                got = await reader.getmany(timeout_ms=500, max_records=500)
                for records in got.values():
                    for record in records:
                        OrderFields.model_validate_json(record.value or b"")
                    left -= len(records)
                if got:
                    await reader.commit()
        await reader.stop()


async def handled(url: str, n: int, clock: Clock) -> None:
    """Ours; the clock begins with the first handler call."""
    async with filled(url, n) as topic:
        count, began = Count(n), False

        @subscribe(here(topic), group=f"{topic}-group")
        async def handle(event: OrderPlaced) -> None:
            nonlocal began
            if not began:
                began = True
                clock.__enter__()
            count.one()

        async with EventBus(bus_url(url), handlers=[handle], service="bench"):
            await count.all.wait()
            clock.__exit__(None, None, None)


async def send_and_wait(url: str, n: int, clock: Clock) -> None:
    """A hundred tasks, each waits for its confirm."""
    async with topic_of(url) as topic:
        writer = await _writer(url)
        await _send_all(writer, topic, n, clock, _nothing_to_wait_for(n))
        await writer.stop()


async def published(url: str, n: int, clock: Clock) -> None:
    """Ours, without a storage: each waits for the broker's confirm."""
    async with topic_of(url) as topic:
        events = list(map(maker(topic), range(n)))
        async with EventBus(bus_url(url), service="bench").client() as bus:
            await bus.publish(events[0])
            await on_all(iter(events), bus.publish, clock, IN_FLIGHT, _nothing_to_wait_for(n))


async def both_by_hand(url: str, n: int, clock: Clock) -> None:
    """Written by a hundred tasks while it is read in the same process."""
    async with topic_of(url) as topic:
        reader, writer, count = await reader_of(url, topic), await _writer(url), Count(n)
        await reader.getone()

        async def read() -> None:
            async for record in reader:
                OrderFields.model_validate_json(record.value or b"")
                count.one()

        task = asyncio.create_task(read(), name="reader:bench")
        await _send_all(writer, topic, n, clock, count)
        task.cancel()
        await reader.stop()
        await writer.stop()


async def published_and_handled(url: str, n: int, clock: Clock) -> None:
    """Ours in one process, through the broker."""
    async with topic_of(url) as topic:
        events = list(map(maker(topic), range(n)))
        count = Count(n + 1)  # and the one that made the topic
        first = asyncio.Event()

        @subscribe(here(topic), group=f"{topic}-group")
        async def handle(event: OrderPlaced) -> None:
            first.set()
            count.one()

        async with EventBus(bus_url(url), handlers=[handle], service="bench") as bus:
            await first.wait()
            await on_all(iter(events), bus.publish, clock, IN_FLIGHT, count)


async def _send_all(
    writer: AIOKafkaProducer, topic: str, n: int, clock: Clock, count: Count
) -> None:
    async def send(order: OrderFields) -> None:
        key = str(order.order_id).encode()
        body = order.model_dump_json().encode()
        await writer.send_and_wait(topic, body, key=key, headers=HEADERS)

    await on_all(iter(raw_orders(n)), send, clock, IN_FLIGHT, count)


def _nothing_to_wait_for(n: int) -> Count:
    count = Count(n)
    count.all.set()
    return count


async def reader_of(url: str, topic: str) -> AIOKafkaConsumer:
    reader = AIOKafkaConsumer(
        topic,
        bootstrap_servers=servers(url),
        group_id=f"{topic}-raw",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await reader.start()
    return reader


async def _writer(url: str) -> AIOKafkaProducer:
    writer = AIOKafkaProducer(
        bootstrap_servers=servers(url),
        acks="all",
        enable_idempotence=True,
        max_batch_size=128 << 10,
    )
    await writer.start()
    return writer
