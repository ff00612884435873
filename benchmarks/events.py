"""The event log on PostgreSQL beside asyncpg by hand: appends, one by one and merged, and reads.

The base of an append is a plain INSERT into the same partitioned table with the same indexes.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from typing import Any
from uuid import UUID

import asyncpg
from pydantic import BaseModel

from benchmarks.postgres import Work, World, case, message, timed
from benchmarks.rounds import Bar, Case, Figures, Goal
from eventbus import Event, EventBus
from eventbus.message import Message, new_id
from eventbus.postgres.recorded import event_values
from eventbus.storage.events import Append, Position

CALLERS = 256


class PaidFields(BaseModel):
    """What a raw loop decodes."""

    order_id: str
    cents: int
    paid_at: datetime


class Paid(Event, type="bench.paid", key="order_id"):
    order_id: str
    cents: int
    paid_at: datetime


PAYLOAD = b'{"order_id":"A-1000","cents":4200,"paid_at":"2026-01-02T03:04:05.678901Z"}'
START = Position(0)
_INSERT = """
INSERT INTO eventbus.events (position, stream_id, version, event_id, schema_version, type, tenant,
                             stream, data, meta)
SELECT nextval('eventbus.position_seq'), x.s, x.v, x.i, 1, x.t, '', x.n, x.d, x.m
  FROM unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::bytea[],
              $7::bytea[]) x(s, v, i, t, n, d, m)"""
_ONE = """
INSERT INTO eventbus.events (position, stream_id, version, event_id, schema_version, type, tenant,
                             stream, data, meta)
VALUES (nextval('eventbus.position_seq'), $1, $2, $3, 1, $4, '', $5, $6, $7)"""
_PAGE = """
SELECT position, data FROM eventbus.events WHERE position > $1 ORDER BY position LIMIT 1000"""
_COPIED = (
    *("position", "stream_id", "version", "stream", "tenant"),
    *("type", "event_id", "data", "meta", "schema_version", "correlation_id", "causation_id"),
)
_META = b'{"source":"bench","topic":"bench","headers":{"correlationid":"x"}}'


def one_bar(commit_ms: int = 0) -> Bar:
    """N7."""
    name = _named("N7", commit_ms)
    goal = Goal(figure="of_raw", at_least=0.8)
    few = 4 if commit_ms else 1
    return Bar(
        name=name,
        what=f"append, one event per commit, with its version checked{_slower(commit_ms)}",
        ratio_of="rate",
        cases=[
            case(name, "asyncpg, INSERT", 1000 // few, _inserted, commit_ms=commit_ms),
            case(name, "eventbus, append", 1000 // few, _appended, commit_ms=commit_ms),
            case(name, "in turns", 800 // few, _in_turns, goal, commit_ms=commit_ms),
            *_peers(name, commit_ms, {"recorder": (1000 // few, 1), "functions": (1000 // few, 1)}),
        ],
    )


def merged_bar(commit_ms: int = 0) -> Bar:
    """N8."""
    goal = Goal(figure="rate", at_least=15_000, where_base=13_700)
    name = _named("N8", commit_ms)
    return Bar(
        name=name,
        what=f"append, {CALLERS} tasks at once{_slower(commit_ms)}",
        ratio_of="rate",
        cases=[
            case(
                name,
                "asyncpg, plain inserts on 16 connections",
                8000,
                _on_many,
                commit_ms=commit_ms,
            ),
            case(name, "a transaction each", 4000, _many(merged=False), commit_ms=commit_ms),
            case(name, "merged", 20_000, _many(merged=True), goal, commit_ms=commit_ms),
        ],
    )


def batch_bar(commit_ms: int = 0) -> Bar:
    """N9."""
    goal = Goal(figure="rate", at_least=110_000, where_base=135_000)
    name = _named("N9", commit_ms)
    return Bar(
        name=name,
        what=f"append, 1,000 events per commit{_slower(commit_ms)}",
        ratio_of="rate",
        cases=[
            case(name, "asyncpg, unnest", 50_000, _unnested, commit_ms=commit_ms),
            case(name, "eventbus, append", 50_000, _batches, goal, commit_ms=commit_ms),
            *_peers(name, commit_ms, {"recorder": (20_000, 1000)}),
        ],
    )


def read_bar() -> Bar:
    """N10: the whole log by `search`, page by page beside it, and its pages one after the other."""
    goal = Goal(figure="rate", at_least=150_000, where_base=170_000)
    return Bar(
        name="N10",
        what="the log read back into models",
        ratio_of="rate",
        cases=[
            case("N10", "asyncpg, pages of 1,000, pydantic", 100_000, _read_by_hand),
            case("N10", "eventbus, undecoded", 100_000, _read(decoded=False)),
            case("N10", "eventbus, decoded", 100_000, _read(decoded=True)),
            case("N10", "eventbus, decoded, search", 100_000, _searched, goal),
            *_reading_peer(),
        ],
    )


def load_bar() -> Bar:
    """Bulk load."""
    return Bar(
        name="LOAD",
        what="bulk load of streams of ten events",
        ratio_of="rate",
        cases=[
            case("LOAD", "asyncpg, COPY of 20,000", 100_000, _copied),
            case("LOAD", "eventbus, load_events", 100_000, _loaded),
        ],
    )


SLOW_MS = 2  # a commit, where batching and merging decide
BARS: dict[str, Callable[[], Bar]] = {
    "LOAD": load_bar,
    "N7": one_bar,
    "N8": merged_bar,
    "N9": batch_bar,
    "N10": read_bar,
    "N7-2MS": partial(one_bar, SLOW_MS),
    "N8-2MS": partial(merged_bar, SLOW_MS),
    "N9-2MS": partial(batch_bar, SLOW_MS),
}


def _named(bar: str, commit_ms: int) -> str:
    return f"{bar}-{commit_ms}MS" if commit_ms else bar


def _slower(commit_ms: int) -> str:
    return f"; every commit takes {commit_ms} ms more" if commit_ms else ""


def _peers(bar: str, commit_ms: int, kinds: Mapping[str, tuple[int, int]]) -> list[Case]:
    """The `eventsourcing` library, where it is installed."""
    if find_spec("eventsourcing") is None:
        return []
    from benchmarks.eventsourcing_peer import inserted

    return [
        case(
            bar,
            f"eventsourcing, {kind}",
            n,
            inserted(events, functions=kind == "functions"),
            commit_ms=commit_ms,
        )
        for kind, (n, events) in kinds.items()
    ]


def _reading_peer() -> list[Case]:
    if find_spec("eventsourcing") is None:
        return []
    from benchmarks.eventsourcing_peer import read

    work = read(PAYLOAD, PaidFields)
    return [case("N10", "eventsourcing, pages of 1,000, pydantic", 50_000, work)]


def _row(number: int) -> tuple[Any, ...]:
    one = message(number)
    return number + 1_000_000, 1, UUID(one.id), one.type, f"raw-{number}", one.payload, _META


async def _inserted(world: World, n: int) -> None:
    rows = [_row(number) for number in range(n)]
    async with timed(world):
        for row in rows:
            await world.admin.execute(_ONE, *row)


async def _appended(world: World, n: int) -> None:
    appends = [_append(f"order-{number}", [message(number)]) for number in range(n)]
    await world.storage.append(_append("warm-1", [message(0)]))
    async with timed(world):
        for append in appends:
            await world.storage.append(append)


async def _in_turns(world: World, n: int) -> Figures:
    """Both in one run, one after the other: what disturbs one disturbs the other."""
    rows = [_row(number) for number in range(n)]
    appends = [_append(f"order-{number}", [message(number)]) for number in range(n)]
    await world.storage.append(_append("warm-1", [message(0)]))
    raw, ours = [0.0] * n, [0.0] * n
    async with timed(world):
        for number in range(n):
            began = time.perf_counter()
            await world.admin.execute(_ONE, *rows[number])
            between = time.perf_counter()
            await world.storage.append(appends[number])
            raw[number], ours[number] = between - began, time.perf_counter() - between
    return {
        "ms": statistics.median(ours) * 1000,
        "of_raw": statistics.median(raw) / statistics.median(ours),
    }


def _many(*, merged: bool) -> Work:
    async def work(world: World, n: int) -> Figures:
        each = n // CALLERS
        times: list[float] = []

        async def call(task: int) -> None:
            for number in range(each):
                append = _append(f"order-{task}-{number}", [message(number)])
                began = time.perf_counter()
                if merged:
                    await world.storage.append(append)
                else:
                    async with world.storage.transaction() as tx:
                        await tx.events.append(append)
                times.append(time.perf_counter() - began)

        await world.storage.append(_append("warm-1", [message(0)]))
        async with timed(world), asyncio.TaskGroup() as tasks:
            for task in range(CALLERS):
                tasks.create_task(call(task), name=f"append:{task}")
        return {"ms": statistics.median(times) * 1000}

    return work


async def _on_many(world: World, n: int) -> None:
    rows = [_row(number) for number in range(n)]
    async with asyncpg.create_pool(world.storage.config.dsn, min_size=16, max_size=16) as pool:

        async def work(share: list[tuple[Any, ...]]) -> None:
            async with pool.acquire() as connection:
                for row in share:
                    await connection.execute(_ONE, *row)

        async with timed(world), asyncio.TaskGroup() as tasks:
            for number in range(16):
                tasks.create_task(work(rows[number::16]), name=f"insert:{number}")


async def _unnested(world: World, n: int) -> None:
    rows = [_row(number) for number in range(n)]
    async with timed(world):
        for start in range(0, n, 1000):
            s, v, i, t, name, d, m = zip(*rows[start : start + 1000], strict=True)
            await world.admin.execute(_INSERT, s, v, i, t, name, d, m)


async def _copied(world: World, n: int) -> None:
    """The rows that `load_events` writes, byte by byte, but for ids and stream names."""
    records = [
        (number + 2, number + 1_000_000, 1, f"raw-{number}", "", *event_values(message(number)))
        for number in range(n)
    ]
    async with timed(world):
        for start in range(0, n, 20_000):
            await world.admin.copy_records_to_table(
                "events",
                schema_name="eventbus",
                columns=_COPIED,
                records=records[start : start + 20_000],
            )


async def _loaded(world: World, n: int) -> None:
    appends = [
        _append(f"order-{start}", [message(start + number) for number in range(10)])
        for start in range(0, n, 10)
    ]
    async with timed(world):
        for start in range(0, len(appends), 2000):
            await world.storage.load_events(appends[start : start + 2000])


async def _batches(world: World, n: int) -> None:
    appends = [
        _append(f"order-{start}", [message(start + number) for number in range(1000)])
        for start in range(0, n, 1000)
    ]
    await world.storage.append(_append("warm-1", [message(0)]))
    async with timed(world):
        for append in appends:
            await world.storage.append(append)


async def _read_by_hand(world: World, n: int) -> None:
    await _fill(world, n)
    found, after = 0, 0
    async with timed(world):
        while rows := await world.admin.fetch(_PAGE, after):
            models = [PaidFields.model_validate_json(row["data"]) for row in rows]
            found += len(models)
            after = rows[-1]["position"]
    _expect(found, n)


def _read(*, decoded: bool) -> Work:
    async def work(world: World, n: int) -> None:
        await _fill(world, n)
        found, after = 0, START
        bus = EventBus("memory://", storage=world.storage, handlers=[Paid])
        async with bus, timed(world):
            while True:
                page = await bus.events.read_all(after=after, limit=1000)
                found += len([one.event for one in page.events] if decoded else page.events)
                if page.read_to == after:
                    break
                after = page.read_to
        _expect(found, n)

    return work


async def _searched(world: World, n: int) -> None:
    await _fill(world, n)
    bus = EventBus("memory://", storage=world.storage, handlers=[Paid])
    async with bus, timed(world):
        found = 0
        async for one in bus.events.search():
            found += isinstance(one.event, Paid)
    _expect(found, n)


async def _fill(world: World, n: int) -> None:
    for start in range(0, n, 2000):
        messages = [
            Message(
                id=new_id(),
                type="bench.paid",
                source="bench",
                topic="bench",
                payload=PAYLOAD,
                key=f"order-{start}",
                headers={"correlationid": "x" * 36, "datacontenttype": "application/json"},
            )
            for _ in range(min(2000, n - start))
        ]
        await world.storage.append(_append(f"order-{start}", messages))
    await world.admin.execute("VACUUM ANALYZE eventbus.events", timeout=300)


def _append(stream: str, messages: Sequence[Message]) -> Append:
    return Append(stream=stream, messages=messages, expected="absent")


def _expect(found: int, n: int) -> None:
    if found != n:
        raise AssertionError(f"{found} events of {n}")
