"""A consumer's batches: without savepoints while nothing fails, and what a failure leaves then."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import pytest

from eventbus import Context, EventBus, Group, RetryPolicy, Untyped, subscribe
from eventbus.errors import StorageError
from eventbus.memory import MemoryTransport
from eventbus.message import Message, new_id
from eventbus.postgres import PostgresStorage
from eventbus.postgres.session import Session, _Savepoint
from eventbus.testing.conformance.samples import make_table

MINUTE = timedelta(minutes=1)
BATCH, AMOUNT = 20, 60
GROUP = Group(
    "billing",
    lanes=1,
    batch_messages=BATCH,
    batch_time=MINUTE,
    retry=RetryPolicy(in_place=0, parked=(timedelta(hours=1),)),
)
Fails = Callable[[Context], Awaitable[None]]


@contextmanager
def savepoints(patch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many each sending of them held."""
    sent: list[int] = []
    send = Session._send

    async def noted(self: Session, connection: object, unsent: "list[_Savepoint]") -> None:
        sent.append(len(unsent))
        await send(self, connection, unsent)

    with patch.context() as patched:
        patched.setattr(Session, "_send", noted)
        yield sent


async def nothing(ctx: Context) -> None:
    """No message fails."""


async def handled(
    storage: PostgresStorage, table: str, messages: list[Message], fails: Fails
) -> Counter[str]:
    """All of them through a group that writes each; how often each handler was called."""
    calls: Counter[str] = Counter()

    @subscribe(messages[0].type, group=GROUP)
    async def bill(event: Untyped, ctx: Context) -> None:
        calls[ctx.message.id] += 1
        await ctx.sql.execute(f"INSERT INTO {table} (id) VALUES ($1)", ctx.message.id)
        await fails(ctx)

    transport = MemoryTransport()
    again = PostgresStorage(storage.config)
    async with EventBus(transport, storage=again, handlers=[bill], service="t") as bus:
        await transport.publish(messages)
        await bus.until_idle(at_most=MINUTE)
    return calls


def some(amount: int, *, keys: int = AMOUNT) -> list[Message]:
    return [
        Message(
            id=new_id(),
            type="bill.due",
            source="t",
            topic="bill",
            payload=b"{}",
            key=f"k{n % keys}",
        )
        for n in range(amount)
    ]


async def written(storage: PostgresStorage, table: str) -> list[str]:
    async with storage.transaction() as tx:
        rows = await tx.sql.fetch(f"SELECT id FROM {table} ORDER BY n")
    return [row["id"] for row in rows]


async def parked(storage: PostgresStorage) -> list[str]:
    async with storage.transaction() as tx:
        rows = await tx.sql.fetch(f"SELECT message_id FROM {storage.config.schema}.parked")
    return [row["message_id"] for row in rows]


@pytest.fixture
async def table(storage: PostgresStorage) -> str:
    return await make_table(storage, "n bigserial, id text UNIQUE")


async def test_while_nothing_fails_no_savepoint_is_sent(
    storage: PostgresStorage, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = some(AMOUNT)
    with savepoints(monkeypatch) as sent:
        calls = await handled(storage, table, messages, nothing)
    assert sum(sent) <= 1  # the first message may have come alone
    assert sorted(await written(storage, table)) == sorted(one.id for one in messages)
    assert set(calls.values()) == {1}


async def _raises(ctx: Context) -> None:
    raise ValueError("no")


async def _breaks_a_constraint(ctx: Context) -> None:
    await ctx.sql.execute("SELECT 1 / 0")


@pytest.mark.parametrize("way", [_raises, _breaks_a_constraint])
async def test_a_failure_costs_one_message_though_its_batch_had_no_savepoints(
    storage: PostgresStorage, table: str, way: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = some(AMOUNT)
    guilty = messages[AMOUNT // 2 + 5]

    async def fails(ctx: Context) -> None:
        if ctx.message.id == guilty.id:
            await way(ctx)

    with savepoints(monkeypatch) as sent:
        calls = await handled(storage, table, messages, fails)
    others = [one.id for one in messages if one is not guilty]
    assert sorted(await written(storage, table)) == sorted(others)
    assert await parked(storage) == [guilty.id]
    assert calls[guilty.id] == 2  # once without, once with
    assert max(calls.values()) == 2
    assert 0 < sum(sent) <= AMOUNT  # from then on each message has its own


async def test_a_message_that_ends_its_own_connection_is_parked_and_its_neighbours_are_done(
    storage: PostgresStorage, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a statement does that takes the server's process with it: tried again, for ever."""
    monkeypatch.setattr("eventbus.pubsub.lanes.CONFLICTS", 1)
    messages = some(4)
    guilty = messages[1]

    async def fails(ctx: Context) -> None:
        if ctx.message.id == guilty.id:
            await ctx.sql.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    await handled(storage, table, messages, fails)
    others = [one.id for one in messages if one is not guilty]
    assert sorted(await written(storage, table)) == sorted(others)
    assert await parked(storage) == [guilty.id]


async def test_what_is_behind_the_guilty_one_waits_in_order(
    storage: PostgresStorage, table: str
) -> None:
    messages = some(AMOUNT, keys=3)
    guilty = messages[31]

    async def fails(ctx: Context) -> None:
        if ctx.message.id == guilty.id:
            await _raises(ctx)

    await handled(storage, table, messages, fails)
    held = [one.id for one in messages[31:] if one.key == guilty.key]
    found = await written(storage, table)
    for key in {one.key for one in messages}:
        due = [one.id for one in messages if one.key == key and one.id not in held]
        assert [one for one in found if one in due] == due
    assert len(found) == AMOUNT - len(held)
    assert sorted(await parked(storage)) == sorted(held)


async def test_a_handler_that_swallows_a_failed_statement_is_found_out(
    storage: PostgresStorage, table: str
) -> None:
    messages = some(AMOUNT)
    guilty = messages[31]

    async def fails(ctx: Context) -> None:
        if ctx.message.id == guilty.id:
            with suppress(StorageError):
                await ctx.sql.execute("SELECT 1 / 0")

    await handled(storage, table, messages, fails)
    assert sorted(await written(storage, table)) == sorted(
        one.id for one in messages if one is not guilty
    )
    assert await parked(storage) == [guilty.id]
