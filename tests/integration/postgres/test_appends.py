"""One-shot appends whose answer is lost, or that the server refuses."""

import asyncio
from typing import get_args

import asyncpg
import pytest

from eventbus.errors import CommitUnknownError, ConcurrencyError, StorageError
from eventbus.message import Message
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.postgres.pools import Role
from eventbus.storage.events import Append, Appended
from eventbus.testing.conformance.events import of, stream, to
from eventbus.testing.conformance.samples import numbers, some_message, unique
from tests.faults.proxy import Cut, FaultProxy, commit_reply
from tests.integration.postgres.races import done_or_waiting


def selected(frame: bytes) -> bool:
    """The answer to a SELECT."""
    return frame[:1] == b"C" and b"SELECT" in frame


async def several(storage: PostgresStorage, *appends: Append) -> list[Appended | BaseException]:
    """From tasks of their own, so that they are merged."""
    tasks = [
        asyncio.create_task(storage.append(append), name=f"append:{append.stream}")
        for append in appends
    ]
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("published", [False, True])
async def test_a_lost_answer_is_settled_by_the_same_ids(
    proxied: PostgresStorage, proxy: FaultProxy, published: bool
) -> None:
    first, name = unique("order"), unique("order")
    outgoing = [some_message(3)] if published else []
    await proxied.append(to(first, [some_message(0)], publish=outgoing))
    proxy.rule(toward="client", when=selected, do=Cut())
    appended = await proxied.append(to(name, [some_message(1)], "absent", publish=outgoing))
    assert (appended.version, appended.repeated) == (1, True)
    assert numbers(of(await stream(proxied, name))) == [1]


async def test_lost_answers_of_merged_appends_are_settled_one_by_one(
    proxied: PostgresStorage, proxy: FaultProxy
) -> None:
    for _ in range(2):
        await several(proxied, *(to(unique("order"), [some_message(0)]) for _ in range(6)))
    names = [unique("order") for _ in range(20)]
    proxy.rule(toward="client", when=selected, do=Cut(), times=2)
    verdicts = await several(proxied, *(to(name, [some_message(1)], "absent") for name in names))
    assert {each.version for each in verdicts if isinstance(each, Appended)} == {1}
    assert len([each for each in verdicts if isinstance(each, Appended)]) == len(names)
    for name in names:
        assert numbers(of(await stream(proxied, name))) == [1]


async def test_without_any_answer_the_outcome_is_unknown_and_can_be_asked(
    proxied: PostgresStorage, proxy: FaultProxy
) -> None:
    name = unique("order")
    await proxied.append(to(name, [some_message(0)], "absent"))
    append = to(name, [some_message(1)], 1)
    proxy.rule(toward="client", when=selected, do=Cut())
    proxy.rule(toward="server", when=lambda frame: b"BEGIN" in frame, do=Cut(), times=5)
    with pytest.raises(CommitUnknownError) as caught:
        await proxied.append(append)
    assert caught.value.ids == (append.messages[0].id,)
    proxy.heal()
    assert await caught.value.resolve() == "committed"
    assert numbers(of(await stream(proxied, name))) == [0, 1]


async def test_asking_changes_nothing_if_it_never_arrived(
    proxied: PostgresStorage, proxy: FaultProxy
) -> None:
    name = unique("order")
    await proxied.append(to(unique("order"), [some_message(0)], "absent"))
    proxy.rule(toward="server", when=lambda frame: name.encode() in frame, do=Cut(), times=9)
    proxy.rule(toward="server", when=lambda frame: b"BEGIN" in frame, do=Cut(), times=9)
    with pytest.raises(CommitUnknownError) as caught:
        await proxied.append(to(name, [some_message(1)], "absent"))
    proxy.heal()
    assert await caught.value.resolve() == "rolled_back"
    assert list(await stream(proxied, name)) == []


async def test_only_the_guilty_one_of_merged_appends_is_refused(storage: PostgresStorage) -> None:
    bad = Message(id="1", type="no\0text", source="s", topic="t", payload=b"")
    names = [unique("order") for _ in range(10)]
    appends = [to(name, [some_message(1)], "absent") for name in names]
    appends[4] = to(names[4], [bad], "absent")
    verdicts = await several(storage, *appends)
    assert [number for number, each in enumerate(verdicts) if isinstance(each, StorageError)] == [4]
    for name in names[:4] + names[5:]:
        assert numbers(of(await stream(storage, name))) == [1]


async def test_behind_a_pooler_appends_go_in_a_transaction(storage: PostgresStorage) -> None:
    config = PostgresConfig(dsn=storage.config.dsn, schema=storage.config.schema, pgbouncer=True)
    names = [unique("order") for _ in range(6)]
    async with PostgresStorage(config) as pooled:
        verdicts = await several(
            pooled,
            *(to(name, [some_message(2)], "absent", publish=[some_message(2)]) for name in names),
            to(names[0], [some_message(3)], "absent"),
        )
    assert [isinstance(each, Appended) for each in verdicts] == [True] * 6 + [False]
    for name in names:
        assert numbers(of(await stream(storage, name))) == [2]


async def test_another_default_isolation_changes_no_verdict(
    storage: PostgresStorage, admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """Under SERIALIZABLE who waited for a winner fails (40001), and would have to go again."""
    name, other = unique("held"), unique("order")
    await storage.append(to(name, [some_message(0)], "absent"))
    database = await admin.fetchval("SELECT quote_ident(current_database())")
    level = "SET default_transaction_isolation"
    await admin.execute(f"ALTER DATABASE {database} {level} = 'serializable'")
    try:
        async with PostgresStorage(storage.config) as late:
            await late.append(to(other, [some_message(0)], "absent"))  # connected
            for role in get_args(Role):
                async with late.pools.connecting(role) as connection:
                    level_here = await connection.fetchval("SHOW default_transaction_isolation")
                    assert (role, level_here) == (role, "read committed")
            async with storage.transaction() as winner:
                await winner.events.append(to(name, [some_message(1)], 1))
                waits = asyncio.create_task(
                    late.append(to(name, [some_message(2)], 1)), name="append:1"
                )
                await done_or_waiting(waits, storage)
                assert not waits.done()
            with pytest.raises(ConcurrencyError) as caught:
                await waits
    finally:
        await admin.execute(f"ALTER DATABASE {database} RE{level}")
    assert caught.value.version == 2


async def test_a_connection_that_the_server_ended_is_replaced(
    storage: PostgresStorage, admin: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    name = unique("order")
    await storage.append(to(name, [some_message(0)], "absent"))
    ended = await admin.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'eventbus/tests/append' AND datname = current_database()"
    )
    assert ended
    appended = await storage.append(to(name, [some_message(1)], 1))
    assert appended.version == 2
    assert numbers(of(await stream(storage, name))) == [0, 1]


async def test_a_load_whose_commit_has_no_answer_names_its_events_and_can_be_asked(
    proxied: PostgresStorage, proxy: FaultProxy
) -> None:
    there, new = unique("order"), unique("order")
    await proxied.append(to(there, [some_message(0)], "absent"))
    events = [some_message(number) for number in range(3)]
    loading = [to(there, [some_message(9)], "absent"), to(new, events, "absent")]
    proxy.rule(toward="client", when=commit_reply, do=Cut())
    with pytest.raises(CommitUnknownError) as caught:
        await proxied.load_events(loading, skip=True)
    assert caught.value.ids == tuple(event.id for event in events)
    assert await caught.value.resolve() == "committed"
    assert await proxied.load_events(loading, skip=True) == 0
    assert numbers(of(await stream(proxied, new))) == [0, 1, 2]
