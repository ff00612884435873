"""Days of the inbox: by the message, never by the clock; made ahead, dropped as a whole."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from eventbus.message import Message
from eventbus.postgres import PostgresStorage
from eventbus.postgres.rows import UNDATED, day_of
from eventbus.testing.conformance.samples import failed, some_message, unique

WEEK = timedelta(days=7)
Admin = Any  # asyncpg's connection, whose stubs want a record class


def message_of_day(days_ago: float, *, number: int = 1) -> Message:
    """A UUIDv7 of that day."""
    at = datetime.now(UTC) - timedelta(days=days_ago)
    value = int(at.timestamp() * 1000) << 80 | 0x7000_8000_0000_0000_0000 | number
    return some_message(number, id=str(UUID(int=value)))


async def _receive(storage: PostgresStorage, *messages: Message) -> int:
    async with storage.transaction() as tx:
        keys = [message.key or "" for message in messages]
        return len((await tx.inbox.receive(messages, keys=keys, group="g")).new)


async def _prune(storage: PostgresStorage, *, limit: int = 10_000) -> int:
    return await storage.prune(inbox=WEEK, limit=limit)


async def _partition(admin: Admin, storage: PostgresStorage, message: Message) -> str:
    name = storage.config.schema
    return str(
        await admin.fetchval(
            f"SELECT tableoid::regclass::text FROM {name}.inbox WHERE message = $1",
            message.identity,
        )
    ).rpartition(".")[2]


async def test_a_duplicate_after_midnight_goes_to_the_same_day(
    storage: PostgresStorage, admin: Admin
) -> None:
    old = message_of_day(1)
    assert await _receive(storage, old) == 1
    assert await _receive(storage, old) == 0
    assert await _partition(admin, storage, old) == f"inbox_{day_of(old):%Y%m%d}"


async def test_days_without_a_partition_are_recognised_too(
    storage: PostgresStorage, admin: Admin
) -> None:
    long_ago, ahead = message_of_day(40), message_of_day(-30)
    undated = some_message(id="foreign-7")
    assert await _receive(storage, long_ago, ahead, undated) == 3
    assert await _receive(storage, long_ago, ahead, undated) == 0
    assert await _partition(admin, storage, long_ago) == "inbox_other"
    assert await _partition(admin, storage, ahead) == "inbox_other"
    assert await _partition(admin, storage, undated) == "inbox_undated"


async def test_a_day_whose_last_row_is_old_is_dropped_and_one_that_is_not_stays(
    storage: PostgresStorage, admin: Admin
) -> None:
    name = storage.config.schema
    for days in (20, 21):
        await admin.execute(f"SELECT {name}.ensure_inbox_day(current_date - {days})")
    gone, kept = message_of_day(20), message_of_day(21)
    assert await _receive(storage, gone, kept) == 2
    await admin.execute(
        f"UPDATE {name}.inbox SET seen = current_date - 9 WHERE message = $1", gone.identity
    )
    assert await _prune(storage) == 1
    assert await admin.fetchval(f"SELECT to_regclass('{name}.inbox_{day_of(gone):%Y%m%d}')") is None
    assert await _receive(storage, kept) == 0, "handled yesterday: it is still known"
    assert await _receive(storage, gone) == 1


async def test_a_day_that_a_consumer_uses_is_dropped_another_time(
    storage: PostgresStorage, admin: Admin
) -> None:
    name = storage.config.schema
    await admin.execute(f"SELECT {name}.ensure_inbox_day(current_date - 20)")
    async with storage.transaction() as tx:
        await tx.inbox.receive([message_of_day(20)], keys=["k"], group="g")
        others = asyncio.create_task(_prune(storage), name="prune:1")
        assert await others == 0
    await admin.execute(f"UPDATE {name}.inbox SET seen = current_date - 9")
    assert await _prune(storage) == 1


async def test_undated_rows_and_those_of_other_days_go_in_batches_by_when_they_were_seen(
    storage: PostgresStorage, admin: Admin
) -> None:
    messages = [some_message(id=f"foreign-{n}") for n in range(5)]
    await _receive(storage, *messages, message_of_day(60))
    await admin.execute(f"UPDATE {storage.config.schema}.inbox SET seen = current_date - 8")
    assert await _prune(storage, limit=3) == 3 + 1
    assert await _prune(storage, limit=3) == 2
    assert await _prune(storage, limit=3) == 0


async def test_days_ahead_are_made_by_many_at_once(storage: PostgresStorage, admin: Admin) -> None:
    name = storage.config.schema
    for n in range(-1, 8):
        await admin.execute(
            f"DO $$ BEGIN EXECUTE format('DROP TABLE {name}.inbox_%s',"
            f" to_char(current_date + {n}, 'YYYYMMDD')); END $$"
        )
    await asyncio.gather(*(_prune(storage) for _ in range(4)))
    days = await admin.fetchval(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = $1::regclass", f"{name}.inbox"
    )
    assert days == 9 + 2


async def test_a_day_that_stands_in_other_stays_there(
    storage: PostgresStorage, admin: Admin
) -> None:
    name, message = storage.config.schema, message_of_day(-3)
    await admin.execute(f"DROP TABLE {name}.inbox_{day_of(message):%Y%m%d}")
    assert await _receive(storage, message) == 1
    await _prune(storage)
    assert await _partition(admin, storage, message) == "inbox_other"
    assert await _receive(storage, message) == 0


async def test_old_attempts_letters_audit_rows_and_relay_leases_go(
    storage: PostgresStorage, admin: Admin
) -> None:
    name, message = storage.config.schema, some_message(key="k")
    async with storage.transaction() as tx:
        await tx.inbox.count([message], group="g")
        await tx.parking.park([failed(message, delay=None)], group="g")
        for lease in ("relay/a", "outbox/01"):
            await tx.leases.acquire([lease], owner="us", ttl=WEEK, limit=1)
    from eventbus.inspection import Selection

    what = Selection(place="dead-letter", group="g")
    assert await storage.inspection.change("discard", what, actor="ops") == 1
    assert await _prune(storage) == 0, "all of it is young"
    await admin.execute(
        f"UPDATE {name}.attempts SET at = at - interval '8 days';"
        f"UPDATE {name}.discarded SET discarded_at = discarded_at - interval '31 days';"
        f"UPDATE {name}.audit SET at = at - interval '401 days';"
        f"UPDATE {name}.leases SET until = until - interval '8 days'"
    )
    assert await _prune(storage) == 4
    assert await admin.fetchval(f"SELECT name FROM {name}.leases") == "outbox/01"


@pytest.mark.parametrize(
    ("id", "time", "day"),
    [
        ("0190a6c5-6f6b-7cc3-98c4-dc0c0c07398f", "", "2024-07-12"),
        ("0190a6c5-6f6b-7cc3-98c4-dc0c0c07398f", "2020-01-01T00:00:00Z", "2024-07-12"),
        ("foreign", "2020-01-01T00:30:00+02:00", "2019-12-31"),
        ("foreign", "2020-01-01T00:30:00", "2020-01-01"),
        ("foreign", "yesterday", "1970-01-01"),
        ("foreign", "", "1970-01-01"),
        ("foreign", "1999-12-31T00:00:00Z", "1970-01-01"),
        ("foreign", "9999-12-31T23:59:59-10:00", "1970-01-01"),
        ("foreign", "0001-01-01T00:00:00+10:00", "1970-01-01"),
        ("ffffffff-ffff-7cc3-98c4-dc0c0c07398f", "", "1970-01-01"),
    ],
)
def test_the_day_comes_from_the_message(id: str, time: str, day: str) -> None:
    message = Message(
        id=id, type="a.b", source=unique("s"), topic="a", payload=b"", headers={"time": time}
    )
    assert day_of(message).isoformat() == day
    assert UNDATED.isoformat() == "1970-01-01"
