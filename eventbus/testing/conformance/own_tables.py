"""Tables that a projection of the general form brought: imitated, watched, switched, dropped."""
# ruff: noqa: D102, S101, S608 - a suite: names are sentences, it asserts, names are its own

from contextlib import suppress

import pytest

from eventbus.errors import StorageError
from eventbus.storage import Storage
from eventbus.storage.events import Position
from eventbus.storage.projections import ProjectionVersion, Status
from eventbus.testing.conformance.samples import unique


class OwnTablesSuite:
    """Subclass it with a fixture `storage`: an entered storage."""

    async def test_a_table_tells_its_columns_and_its_key(self, storage: Storage) -> None:
        name = await _table(storage, "(b bigint, a text, c text, PRIMARY KEY (a, b))")
        async with storage.transaction() as tx:
            found = await tx.own_tables.described(name)
            assert found is not None
            assert (found.key, list(found.columns)) == (("a", "b"), ["b", "a", "c"])
            assert await tx.own_tables.described(unique("nothing")) is None

    async def test_a_table_without_a_key_tells_none(self, storage: Storage) -> None:
        name = await _table(storage, "(a bigint)")
        async with storage.transaction() as tx:
            found = await tx.own_tables.described(name)
        assert found is not None
        assert found.key == ()

    async def test_an_imitation_is_empty_and_refuses_what_the_table_refuses(
        self, storage: Storage
    ) -> None:
        name = await _table(storage, "(a bigint PRIMARY KEY, b bigint NOT NULL DEFAULT 7, c text)")
        async with storage.transaction() as tx:
            await tx.sql.execute(f"CREATE UNIQUE INDEX {name}_c ON {name} (c)")
            await tx.sql.execute(f"INSERT INTO {name} (a) VALUES (1)")
            await tx.own_tables.imitate([name], 3)
            shadow = f"{name}__v3"
            assert await tx.sql.fetch(f"SELECT * FROM {shadow}") == []
            await tx.sql.execute(f"INSERT INTO {shadow} (a, c) VALUES (2, 'x')")
            (row,) = await tx.sql.fetch(f"SELECT b FROM {shadow}")
            assert row["b"] == 7
            for refused in ("(2, 1, 'y')", "(3, NULL, 'y')", "(3, 1, 'x')"):
                with pytest.raises(StorageError):
                    async with tx.savepoint():
                        await tx.sql.execute(f"INSERT INTO {shadow} (a, b, c) VALUES {refused}")

    async def test_an_imitation_takes_nobodys_place(self, storage: Storage) -> None:
        name = await _table(storage, "(a bigint PRIMARY KEY)")
        async with storage.transaction() as tx:
            await tx.sql.execute(f"CREATE TABLE {name}__v2 (mine text)")
        with pytest.raises(StorageError) as caught:
            async with storage.transaction() as tx:
                await tx.own_tables.imitate([name], 2)
        assert caught.value.code == "EB6003"

    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO {} VALUES (2)",
            "UPDATE {} SET a = 3 WHERE a = 1",
            "DELETE FROM {} WHERE a = 1",
            "WITH one AS (SELECT 9 AS a) INSERT INTO {} SELECT a FROM one",
        ],
    )
    async def test_what_is_watched_tells_who_was_written_to(
        self, storage: Storage, statement: str
    ) -> None:
        name = await _table(storage, "(a bigint PRIMARY KEY)")
        other = await _table(storage, "(a bigint PRIMARY KEY)")
        async with storage.transaction() as tx:
            await tx.sql.execute(f"INSERT INTO {name} VALUES (1)")  # before: nobody looks
            await tx.own_tables.watch([name, other])
            await tx.sql.fetch(f"SELECT * FROM {name}")
            assert await tx.own_tables.touched() == []
            await tx.own_tables.watch([name, other])
            await tx.sql.execute(statement.format(name))
            assert await tx.own_tables.touched() == [name]
            await tx.own_tables.watch([other])
            await tx.sql.execute(f"INSERT INTO {name} VALUES (5)")
            assert await tx.own_tables.touched() == []

    async def test_nobody_is_watched_after_a_rollback(self, storage: Storage) -> None:
        name = await _table(storage, "(a bigint PRIMARY KEY)")
        with suppress(ZeroDivisionError):
            async with storage.transaction() as tx:
                await tx.own_tables.watch([name])
                await tx.sql.execute(f"INSERT INTO {name} VALUES (1)")
                raise ZeroDivisionError
        async with storage.transaction() as tx:
            await tx.own_tables.watch([name])
            assert await tx.own_tables.touched() == []

    async def test_a_switch_moves_all_tables_of_both_versions(self, storage: Storage) -> None:
        """The old one has a table that the new one has no more."""
        kept = await _table(storage, "(a bigint PRIMARY KEY)")
        gone = await _table(storage, "(a bigint PRIMARY KEY)")
        async with storage.transaction() as tx:
            await tx.projections.create(_version(kept, 1, "active", kept), None)
            await tx.own_tables.keep(kept, 1, [kept, gone])
            await tx.projections.create(_version(kept, 2, "building", kept), None)
            await tx.own_tables.imitate([kept], 2)
            await tx.sql.execute(f"INSERT INTO {kept}__v2 VALUES (2)")
            await tx.own_tables.analyze([f"{kept}__v2"])
            for version in (1, 2):
                await tx.checkpoints.load(f"{kept}@{version}/0", fingerprint=b"x")
            versions = await tx.projections.versions(kept)
        assert [one.tables for one in versions] == [(kept, gone), (kept,)]
        async with storage.transaction() as tx:
            await tx.projections.switch(kept, to=2)
        async with storage.transaction() as tx:
            assert len(await tx.sql.fetch(f"SELECT * FROM {kept}")) == 1
            assert await tx.sql.fetch(f"SELECT * FROM {gone}__v1") == []
        async with storage.transaction() as tx:
            await tx.projections.switch(kept, to=1, back=True)
            await tx.projections.drop(kept, 2)
        async with storage.transaction() as tx:
            assert await tx.sql.fetch(f"SELECT * FROM {kept}") == []
            assert await tx.sql.fetch(f"SELECT * FROM {gone}") == []
            assert await tx.own_tables.described(f"{kept}__v2") is None


async def _table(storage: Storage, columns: str) -> str:
    name = unique("own")
    async with storage.transaction() as tx:
        await tx.sql.execute(f"CREATE TABLE {name} {columns}")
    return name


def _version(name: str, number: int, status: Status, *tables: str) -> ProjectionVersion:
    return ProjectionVersion(
        name=name,
        version=number,
        status=status,
        code_hash=b"code",
        shards=1,
        built_to=None,
        publishes_after=Position(0),
        tables=tables,
    )
