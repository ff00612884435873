"""Read models in the transaction of the append: who may write which rows, and when."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

import asyncio
from typing import Any

import pytest

from eventbus.errors import StorageError
from eventbus.storage import Storage
from eventbus.storage.events import Append, Position
from eventbus.storage.projections import ProjectionVersion, Table, shadow_of
from eventbus.testing.conformance.samples import at_once, some_message, take, turns, unique

PRINT = b"types, keys, columns"
WRITERS = 8


class InlineSuite:
    """Subclass it with a fixture `storage`: an entered storage."""

    async def test_the_active_version_is_entered_by_its_fingerprint(self, storage: Storage) -> None:
        table = await _begun(storage)
        async with storage.transaction() as tx:
            assert await tx.projections.enter({table.name: PRINT}) == {table.name: 1}
            assert await tx.projections.enter({unique("never"): PRINT}) == {}

    async def test_rows_of_other_code_are_not_entered(self, storage: Storage) -> None:
        table = await _begun(storage)
        with pytest.raises(StorageError) as caught:
            async with storage.transaction() as tx:
                await tx.projections.enter({table.name: b"other"})
        assert caught.value.code == "EB5202"

    async def test_rows_are_claimed_as_they_stand_and_made_where_they_are_missing(
        self, storage: Storage
    ) -> None:
        table = await _begun(storage)
        async with storage.transaction() as tx:
            await tx.projections.write(table, [_row("a", 7)])
        async with storage.transaction() as tx:
            claimed = await tx.projections.claim(table, [_row("b", 0), _row("a", 0)])
            found = {row["word"]: row["cents"] for row in claimed}
        assert found == {"a": 7, "b": 0}
        assert next(row["tags"] for row in claimed if row["word"] == "b") == ["x"]
        assert await _rows(storage, table) == {"a": 7, "b": 0}

    async def test_transactions_that_claim_one_row_take_turns(self, storage: Storage) -> None:
        table = await _begun(storage)

        async def add() -> None:
            async with storage.transaction() as tx:
                (row,) = await tx.projections.claim(table, [_row("a", 0)])
                await turns(3)
                await tx.projections.write(table, [_row("a", row["cents"] + 1)])

        await at_once(*(add() for _ in range(WRITERS)))
        assert await _rows(storage, table) == {"a": WRITERS}

    async def test_who_has_entered_ends_before_a_switch(self, storage: Storage) -> None:
        if not storage.capabilities.concurrent:
            pytest.skip("capability: concurrent")
        table = await _begun(storage)
        entered, go_on = asyncio.Event(), asyncio.Event()

        async def append() -> None:
            async with storage.transaction() as tx:
                await tx.projections.enter({table.name: PRINT})
                entered.set()
                await go_on.wait()
                await tx.projections.write(table, [_row("a", 1)])

        appending = asyncio.create_task(append(), name="conformance:append")
        await entered.wait()
        with pytest.raises(StorageError) as caught:
            async with storage.transaction() as tx:
                await tx.projections.hold(table.name, inline=True)
        assert caught.value.code == "EB5007"
        go_on.set()
        await appending
        async with storage.transaction() as tx:
            await tx.projections.hold(table.name, inline=True)
        assert await _rows(storage, table) == {"a": 1}

    async def test_nobody_enters_while_it_is_held(self, storage: Storage) -> None:
        table = await _begun(storage)
        order: list[str] = []
        held = asyncio.Event()

        async def switch() -> None:
            async with storage.transaction() as tx:
                await tx.projections.hold(table.name, inline=True)
                held.set()
                await turns(20)
                order.append("switched")

        async def enter() -> None:
            await held.wait()
            async with storage.transaction() as tx:
                await tx.projections.enter({table.name: PRINT})
                order.append("entered")

        await at_once(switch(), enter())
        assert order == ["switched", "entered"]

    async def test_an_inline_version_is_switched_where_the_new_one_stands(
        self, storage: Storage
    ) -> None:
        table = await _begun(storage)
        new = _version(table, 2)
        async with storage.transaction() as tx:
            await tx.projections.create(new, shadow_of(table, 2))
            place = Position(5)
            await tx.checkpoints.load(f"{table.name}@2/0", fingerprint=b"other", start=place)
        async with storage.transaction() as tx:
            await tx.projections.switch(table.name, to=2)
        async with storage.transaction() as tx:
            assert await tx.projections.enter({table.name: b"other"}) == {table.name: 2}
            _, second = await tx.projections.versions(table.name)
        assert (second.status, second.runs) == ("active", "inline")
        assert second.publishes_after == Position(5)

    async def test_a_version_that_is_left_is_built_on_from_the_switch(
        self, storage: Storage
    ) -> None:
        table = await _begun(storage)
        place = Position(5)
        async with storage.transaction() as tx:
            await tx.projections.create(_version(table, 2), shadow_of(table, 2))
            await tx.checkpoints.load(f"{table.name}@2/0", fingerprint=b"other", start=place)
        async with storage.transaction() as tx:
            await tx.projections.switch(table.name, to=2)
        async with storage.transaction() as tx:
            assert await tx.checkpoints.positions(f"{table.name}@1/") == {f"{table.name}@1/0": 5}
            await tx.projections.revive(table.name, 1)
            first, _ = await tx.projections.versions(table.name)
        assert (first.status, first.served) == ("building", True)
        lease = await take(storage, f"projection/{table.name}@1/0")
        async with storage.transaction() as tx:
            await tx.checkpoints.save(
                f"{table.name}@1/0", Position(7), after=Position(5), lease=lease
            )

    async def test_only_a_retired_version_is_revived(self, storage: Storage) -> None:
        table = await _begun(storage)
        with pytest.raises(StorageError) as caught:
            async with storage.transaction() as tx:
                await tx.projections.revive(table.name, 1)
        assert caught.value.code == "EB6008"

    async def test_the_bound_within_a_transaction_is_below_what_it_appended(
        self, storage: Storage
    ) -> None:
        async with storage.transaction() as tx:
            before = await tx.events.read_bound()
            appended = await tx.events.append(
                Append(stream=unique("order"), messages=[some_message()], expected="any")
            )
            found = await tx.events.read_bound()
        assert before.bound <= found.bound < appended.position <= found.head


def _table() -> Table:
    columns = {"word": str, "cents": int, "tags": tuple[str, ...]}
    return Table(name=unique("words"), key=("word",), columns=columns)


def _row(word: str, cents: int) -> dict[str, Any]:
    return {"word": word, "cents": cents, "tags": ["x"]}


def _version(table: Table, number: int) -> ProjectionVersion:
    return ProjectionVersion(
        name=table.name,
        version=number,
        status="active" if number == 1 else "building",
        code_hash=b"code",
        shards=1,
        built_to=None,
        publishes_after=Position(0),
        runs="inline",
    )


async def _begun(storage: Storage) -> Table:
    table = _table()
    async with storage.transaction() as tx:
        await tx.projections.create(_version(table, 1), table)
        await tx.checkpoints.load(f"{table.name}@1/0", fingerprint=PRINT)
    return table


async def _rows(storage: Storage, table: Table) -> dict[str, int]:
    async with storage.transaction() as tx:
        rows = await tx.sql.fetch(f"SELECT word, cents FROM {table.name}")  # noqa: S608
    return {row["word"]: row["cents"] for row in rows}
