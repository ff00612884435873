"""Tables of read models, their versions, and the switch between two of them."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from eventbus.errors import LeaseLostError, StorageError
from eventbus.storage import Storage
from eventbus.storage.events import Append, Position
from eventbus.storage.projections import ProjectionVersion, Status, Table, shadow_of
from eventbus.testing.conformance.samples import (
    at_once,
    failed,
    some_message,
    some_messages,
    take,
    unique,
)

PRINT = b"types, keys, columns"
MANY = 2_000


class ProjectionSuite:
    """Subclass it with a fixture `storage`: an entered storage."""

    async def test_a_version_is_created_once_with_its_table(self, storage: Storage) -> None:
        table = _table()
        assert await _create(storage, table)
        assert not await _create(storage, table)
        async with storage.transaction() as tx:
            (version,) = await tx.projections.versions(table.name)
            names = await tx.projections.names()
        assert version == _version(table, 1, "active")
        assert table.name in names
        assert await _rows(storage, table) == {}

    async def test_a_table_that_stands_there_is_refused_and_left_alone(
        self, storage: Storage
    ) -> None:
        table = _table()
        async with storage.transaction() as tx:
            await tx.sql.execute(f"CREATE TABLE {table.name} (mine text)")
        with pytest.raises(StorageError) as caught:
            await _create(storage, table)
        assert caught.value.code == "EB6003"
        async with storage.transaction() as tx:
            assert await tx.projections.versions(table.name) == []
            await tx.sql.execute(f"INSERT INTO {table.name} (mine) VALUES ('still')")  # noqa: S608

    async def test_of_two_that_create_one_makes_it(self, storage: Storage) -> None:
        table = _table()
        made = await at_once(_create(storage, table), _create(storage, table))
        assert sorted(made) == [False, True]

    async def test_only_one_version_is_active(self, storage: Storage) -> None:
        table = _table()
        await _create(storage, table)
        with pytest.raises(StorageError):
            await _create(storage, table, version=2)
        async with storage.transaction() as tx:
            assert len(await tx.projections.versions(table.name)) == 1

    async def test_a_projection_without_a_table_has_versions_too(self, storage: Storage) -> None:
        table = _table()
        async with storage.transaction() as tx:
            assert await tx.projections.create(_version(table, 1, "active"), None)
            assert len(await tx.projections.versions(table.name)) == 1

    async def test_rows_are_written_read_by_key_replaced_and_deleted(
        self, storage: Storage
    ) -> None:
        table = _table()
        await _create(storage, table)
        async with storage.transaction() as tx:
            await tx.projections.write(table, [_row("b", 1), _row("a", 2)])
        async with storage.transaction() as tx:
            keys = [("a",), ("c",), ("b",)]
            found = {row["word"]: row["cents"] for row in await tx.projections.states(table, keys)}
            assert found == {"a": 2, "b": 1}
            await tx.projections.write(table, [_row("b", 5), _row("c", 6)], gone=[("a",)])
        assert await _rows(storage, table) == {"b": 5, "c": 6}

    async def test_what_is_rolled_back_was_not_written(self, storage: Storage) -> None:
        table = _table()
        await _create(storage, table)
        with suppress(LookupError):
            async with storage.transaction() as tx:
                await tx.projections.write(table, [_row("a", 1)])
                raise LookupError
        assert await _rows(storage, table) == {}

    async def test_every_type_of_a_column_comes_back(self, storage: Storage) -> None:
        table = Table(name=unique("everything"), key=("word", "day", "number"), columns=_COLUMNS)
        await _create(storage, table)
        none = dict.fromkeys(["id", "at", "note"])
        rows = [_EVERYTHING, _EVERYTHING | none | {"number": 4, "tags": None}]
        async with storage.transaction() as tx:
            await tx.projections.write(table, rows)
        keys = [tuple(row[name] for name in table.key) for row in rows]
        async with storage.transaction() as tx:
            found = await tx.projections.states(table, keys)
            await tx.projections.write(table, [], gone=keys[:1])
            left = await tx.projections.states(table, keys)
        in_order = sorted(found, key=lambda row: int(row["number"]))
        assert [_read(row) for row in in_order] == rows
        assert [row["number"] for row in left] == [4]

    async def test_a_table_of_keys_only_takes_a_row_twice(self, storage: Storage) -> None:
        table = Table(name=unique("seen"), key=("word",), columns={"word": str})
        await _create(storage, table)
        for _ in range(2):
            async with storage.transaction() as tx:
                await tx.projections.write(table, [{"word": "a"}])
        async with storage.transaction() as tx:
            assert len(await tx.projections.states(table, [("a",)])) == 1

    async def test_no_keys_and_no_rows_are_no_work(self, storage: Storage) -> None:
        table = _table()
        await _create(storage, table)
        async with storage.transaction() as tx:
            assert list(await tx.projections.states(table, [])) == []
            await tx.projections.write(table, [])
            assert await tx.projections.load(table, []) == 0

    async def test_many_rows_are_loaded_at_once(self, storage: Storage) -> None:
        table = _table()
        await _create(storage, table)
        async with storage.transaction() as tx:
            rows = ((f"w{number}", number, {"n": number}) for number in range(MANY))
            assert await tx.projections.load(table, rows) == MANY
        found = await _rows(storage, table)
        assert len(found) == MANY
        assert found["w7"] == 7

    async def test_loading_a_key_twice_fails_and_keeps_nothing(self, storage: Storage) -> None:
        table = _table()
        await _create(storage, table)
        with pytest.raises(StorageError):
            async with storage.transaction() as tx:
                await tx.projections.load(table, [("a", 1, None), ("a", 2, None)])
        assert await _rows(storage, table) == {}

    async def test_a_shadow_gets_the_indexes_that_users_gave_the_live_table(
        self, storage: Storage
    ) -> None:
        old, new = await _beside(storage)
        index = f"{old.name}_by_cents"
        async with storage.transaction() as tx:
            await tx.sql.execute(f"CREATE UNIQUE INDEX {index} ON {old.name} (cents)")
        async with storage.transaction() as tx:
            await tx.projections.index(new)
        async with storage.transaction() as tx:
            await tx.projections.index(new)  # again: it is there
            await tx.projections.write(new, [_row("a", 1)])
        with pytest.raises(StorageError):
            async with storage.transaction() as tx:
                await tx.projections.write(new, [_row("b", 1)])

    @pytest.mark.parametrize("sample", [0, 100])
    async def test_comparing_counts_what_is_equal_different_new_and_gone(
        self, storage: Storage, sample: int
    ) -> None:
        old, new = await _beside(storage)
        async with storage.transaction() as tx:
            await tx.projections.write(old, [_row("a", 1), _row("b", 2), _row("c", 3)])
            await tx.projections.write(new, [_row("a", 1), _row("b", 9), _row("d", 4)])
        async with storage.transaction() as tx:
            found = await tx.projections.compare(old, new, sample=sample)
        assert (found.equal, found.differ, found.new) == (1, 1, 1)
        assert found.gone == 1
        examples = {one["kind"]: (one["key"], one["columns"]) for one in found.examples}
        assert examples["differ"] == (["b"], ["cents", "note"])
        assert examples["new"] == (["d"], [])
        assert examples["gone"] == (["c"], [])

    async def test_comparing_finds_one_changed_cell_of_many(self, storage: Storage) -> None:
        old, new = await _beside(storage)
        rows = [(f"w{number}", number, {"n": number}) for number in range(MANY)]
        changed = [*rows[:-1], (rows[-1][0], rows[-1][1], {"n": 0})]
        async with storage.transaction() as tx:
            await tx.projections.load(old, rows)
            await tx.projections.load(new, changed)
        async with storage.transaction() as tx:
            found = await tx.projections.compare(old, new)
            same = await tx.projections.compare(old, old)
        assert (found.equal, found.differ, found.new, found.gone) == (MANY - 1, 1, 0, 0)
        assert found.examples[0]["columns"] == ["note"]
        assert (same.equal, same.differ, list(same.examples)) == (MANY, 0, [])

    async def test_examples_are_few(self, storage: Storage) -> None:
        old, new = await _beside(storage)
        async with storage.transaction() as tx:
            await tx.projections.load(new, [(f"w{number}", 1, None) for number in range(50)])
            found = await tx.projections.compare(old, new)
        assert (found.new, len(found.examples)) == (50, 10)

    async def test_a_switch_lets_the_new_version_serve_and_back(self, storage: Storage) -> None:
        old, new = await _beside(storage, at=(5, 5))
        async with storage.transaction() as tx:
            await tx.projections.write(old, [_row("a", 1)])
            await tx.projections.write(new, [_row("a", 2)])
        await _switch(storage, old, to=2)
        assert await _rows(storage, old) == {"a": 2}
        assert await _rows(storage, shadow_of(old, 1)) == {"a": 1}
        assert await _statuses(storage, old) == {1: "retired", 2: "active"}
        async with storage.transaction() as tx:
            versions = await tx.projections.versions(old.name)
        assert versions[1].publishes_after == Position(5)
        assert [one.served for one in versions] == [True, True]
        await _switch(storage, old, to=1)
        assert await _rows(storage, old) == {"a": 1}
        assert await _statuses(storage, old) == {1: "active", 2: "retired"}

    @pytest.mark.parametrize("at", [(5, 4), (4, 5)])
    async def test_a_switch_between_two_positions_is_refused(
        self, storage: Storage, at: tuple[int, int]
    ) -> None:
        old, _ = await _beside(storage, at=at)
        with pytest.raises(StorageError) as caught:
            await _switch(storage, old, to=2)
        assert caught.value.code == "EB6008"
        assert await _statuses(storage, old) == {1: "active", 2: "building"}
        async with storage.transaction() as tx:
            assert not any(one.served for one in await tx.projections.versions(old.name))

    @pytest.mark.parametrize("to", [1, 3])
    async def test_a_switch_to_the_active_version_or_to_none_is_refused(
        self, storage: Storage, to: int
    ) -> None:
        old, _ = await _beside(storage, at=(5, 5))
        with pytest.raises(StorageError) as caught:
            await _switch(storage, old, to=to)
        assert caught.value.code == "EB6008"

    async def test_a_switch_to_a_version_without_a_checkpoint_is_refused(
        self, storage: Storage
    ) -> None:
        old, _ = await _beside(storage)
        with pytest.raises(StorageError) as caught:
            await _switch(storage, old, to=2)
        assert caught.value.code == "EB6008"

    async def test_a_retired_version_comes_back_where_it_stands(self, storage: Storage) -> None:
        old, _ = await _beside(storage, at=(5, 5))
        await _switch(storage, old, to=2)
        name = f"{old.name}@2/0"
        lease = await take(storage, f"projection/{name}")
        async with storage.transaction() as tx:
            await tx.checkpoints.save(name, Position(9), after=Position(5), lease=lease)
        with pytest.raises(StorageError) as caught:
            await _switch(storage, old, to=1)
        assert caught.value.code == "EB6008"
        async with storage.transaction() as tx:
            await tx.projections.switch(old.name, to=1, back=True)
        async with storage.transaction() as tx:
            first, _ = await tx.projections.versions(old.name)
            standing = await tx.projections.hold(old.name)
        assert (first.status, first.publishes_after) == ("active", Position(9))
        assert standing == {f"{old.name}@1/0": Position(5), name: Position(9)}

    async def test_streams_that_lost_events_are_counted(self, storage: Storage) -> None:
        stream = unique("order")
        async with storage.transaction() as tx:
            before = await tx.projections.cut()
            messages = some_messages(3)
            await tx.events.append(Append(stream=stream, messages=messages, expected="any"))
            await tx.events.truncate(stream, before=2)
        async with storage.transaction() as tx:
            assert await tx.projections.cut() == before + 1

    async def test_a_retired_version_saves_no_checkpoint(self, storage: Storage) -> None:
        old, _ = await _beside(storage, at=(5, 5))
        name = f"{old.name}@1/0"
        lease = await take(storage, f"projection/{name}")
        await _switch(storage, old, to=2)
        with pytest.raises(LeaseLostError):
            async with storage.transaction() as tx:
                await tx.checkpoints.save(name, Position(6), after=Position(5), lease=lease)
        fresh = f"{old.name}@2/0"
        other = await take(storage, f"projection/{fresh}")
        async with storage.transaction() as tx:
            await tx.checkpoints.save(fresh, Position(6), after=Position(5), lease=other)

    async def test_a_worker_that_waits_for_the_switch_writes_nothing_after_it(
        self, storage: Storage
    ) -> None:
        old, _ = await _beside(storage, at=(5, 5))
        name = f"{old.name}@1/0"
        lease = await take(storage, f"projection/{name}")
        verdicts: list[str] = []

        async def work() -> None:
            try:
                async with storage.transaction() as tx:
                    await tx.checkpoints.save(name, Position(6), after=Position(5), lease=lease)
                    await tx.projections.write(old, [_row("late", 1)])
                verdicts.append("written")
            except LeaseLostError:
                verdicts.append("refused")

        async def switch() -> None:
            with suppress(StorageError):
                await _switch(storage, old, to=2)
                verdicts.append("switched")

        await at_once(switch(), work())
        rows = await _rows(storage, old)
        if "switched" in verdicts:
            assert "refused" in verdicts
            assert rows == {}
        else:
            assert verdicts == ["written"]
            assert rows == {"late": 1}

    async def test_a_version_that_is_not_active_is_dropped_and_an_active_one_is_not(
        self, storage: Storage
    ) -> None:
        old, new = await _beside(storage, at=(5, 5))
        async with storage.transaction() as tx:
            await tx.projections.write(old, [_row("a", 1)])
            await tx.projections.drop(old.name, 1)
            await tx.projections.drop(old.name, 2)
            await tx.projections.drop(old.name, 7)
        assert await _statuses(storage, old) == {1: "active"}
        assert await _rows(storage, old) == {"a": 1}
        async with storage.transaction() as tx:
            assert list(await tx.checkpoints.positions(f"{old.name}@")) == [f"{old.name}@1/0"]
            assert await tx.projections.create(_version(old, 2, "building"), new)

    async def test_of_a_dropped_version_no_mark_and_nothing_parked_is_left(
        self, storage: Storage
    ) -> None:
        old, _ = await _beside(storage, at=(5, 5))
        group, mark = f"projection:{old.name}@2/0", f"scan/{old.name}@2/0/1"
        waiting = failed(some_message(key="a"))
        async with storage.transaction() as tx:
            await tx.parking.park([waiting], group=group)
            await tx.parking.park([failed(some_message(key="a"))], group=group.replace("@2", "@1"))
            await tx.checkpoints.load(mark, fingerprint=PRINT, start=Position(5))
        async with storage.transaction() as tx:
            await tx.projections.drop(old.name, 2)
        async with storage.transaction() as tx:
            assert await tx.parking.keys(group=group, limit=10) == frozenset()
            assert len(await tx.parking.keys(group=group.replace("@2", "@1"), limit=10)) == 1
            assert (await tx.parking.crowd(group=group, above=10)).messages == 0
            assert dict(await tx.checkpoints.positions(mark)) == {}

    async def test_how_far_the_scan_goes_is_kept(self, storage: Storage) -> None:
        old, _ = await _beside(storage)
        async with storage.transaction() as tx:
            await tx.projections.built(old.name, 2, to=Position(77))
        async with storage.transaction() as tx:
            versions = await tx.projections.versions(old.name)
        assert [one.built_to for one in versions] == [None, Position(77)]

    async def test_progress_is_what_was_said_last(self, storage: Storage) -> None:
        name = unique("orders")
        async with storage.transaction() as tx:
            assert await tx.projections.standing(name) is None
            await tx.projections.progress(name, "replay", done=1, total=10, rows=1)
        async with storage.transaction() as tx:
            await tx.projections.progress(name, "replay", done=4, total=10, rows=3)
            found = await tx.projections.standing(name)
        assert found is not None
        assert (found.phase, found.done, found.total, found.rows) == ("replay", 4, 10, 3)
        assert found.silent_seconds <= found.running_seconds


_COLUMNS: Mapping[str, Any] = {
    "word": str,
    "day": date,
    "number": int,
    "share": float,
    "yes": bool,
    "price": Decimal,
    "id": UUID | None,
    "at": datetime | None,
    "raw": bytes,
    "tags": tuple[str, ...],
    "note": str | None,
}
_EVERYTHING: dict[str, Any] = {
    "word": "a\u00e9\U0001f600'\"\\",
    "day": date(2026, 1, 2),
    "number": 3,
    "share": 0.1,
    "yes": True,
    "price": Decimal("12345678901234567890.10"),
    "id": UUID(int=5),
    "at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    "raw": b"\x00\xff",
    "tags": ["x", "y"],
    "note": "",
}


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    """As a model reads it: some stores keep text."""
    texts: dict[str, Any] = {
        "day": date.fromisoformat,
        "price": Decimal,
        "id": UUID,
        "at": datetime.fromisoformat,
    }
    read = {
        name: texts[name](value) if name in texts and isinstance(value, str) else value
        for name, value in row.items()
    }
    return read | {"yes": bool(row["yes"])}


def _table() -> Table:
    columns = {"word": str, "cents": int, "note": dict[str, int] | None}
    return Table(name=unique("words"), key=("word",), columns=columns)


def _row(word: str, cents: int) -> dict[str, Any]:
    return {"word": word, "cents": cents, "note": {"n": cents}}


def _version(table: Table, version: int, status: Status) -> ProjectionVersion:
    return ProjectionVersion(
        name=table.name,
        version=version,
        status=status,
        tables=(table.name,),
        code_hash=b"\x00code",
        shards=1,
        built_to=None,
        publishes_after=Position(0),
    )


async def _create(storage: Storage, table: Table, *, version: int = 1) -> bool:
    place = table if version == 1 else shadow_of(table, version)
    async with storage.transaction() as tx:
        return await tx.projections.create(_version(table, version, "active"), place)


async def _beside(storage: Storage, *, at: Sequence[int] = ()) -> tuple[Table, Table]:
    """An active version and a shadow, with checkpoints at these positions."""
    old = _table()
    new = shadow_of(old, 2)
    await _create(storage, old)
    async with storage.transaction() as tx:
        await tx.projections.create(_version(old, 2, "building"), new)
        for version, position in enumerate(at, start=1):
            name = f"{old.name}@{version}/0"
            await tx.checkpoints.load(name, fingerprint=PRINT, start=Position(position))
    return old, new


async def _switch(storage: Storage, table: Table, *, to: int) -> None:
    async with storage.transaction() as tx:
        await tx.projections.switch(table.name, to=to)


async def _statuses(storage: Storage, table: Table) -> dict[int, str]:
    async with storage.transaction() as tx:
        return {one.version: one.status for one in await tx.projections.versions(table.name)}


async def _rows(storage: Storage, table: Table) -> dict[str, int]:
    async with storage.transaction() as tx:
        rows = await tx.sql.fetch(f"SELECT word, cents FROM {table.name}")  # noqa: S608
    return {row["word"]: row["cents"] for row in rows}
