"""Operators beside a running bus, audits of broken tables, retention."""

import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from eventbus.errors import ConfigurationError
from eventbus.inspection import Selection
from eventbus.sqlite import SqliteStorage, saga_figures
from eventbus.storage.parking import Failure, Parked
from tests.unit.sqlite.helpers import message, with_table

WHY = Failure(reason="exhausted", code="EB4102", type="E", text="no", fingerprint="f")


async def kill(storage: SqliteStorage, key: str) -> str:
    """Make a dead letter; its id."""
    dead = message(key)
    parked = Parked(message=dead, key=key, attempts=5, delay=None, origin="test", failure=WHY)
    async with storage.transaction() as tx:
        await tx.inbox.receive([dead], keys=[key], group="g")
        await tx.parking.park([parked], group="g")
    return dead.id


async def test_operators_work_beside_the_bus(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with with_table(path) as storage:
        dead = await kill(storage, "k")
        async with SqliteStorage(str(path), inspect_only=True) as operators:
            (row,) = await operators.inspection.find(Selection(place="dead-letter"), limit=10)
            assert (row["id"], row["key"], row["state"], row["due_in_seconds"]) == (
                dead,
                "k",
                "dead",
                None,
            )
            changed = await operators.inspection.change(
                "redrive", Selection(place="dead-letter"), actor="test"
            )
            assert changed == 1
        assert await storage.inspection.find(Selection(place="dead-letter"), limit=10) == []


async def test_reading_does_not_wait_for_the_writer(tmp_path: Path) -> None:
    async with with_table(tmp_path / "a.db") as storage:
        await kill(storage, "k")
        async with storage.transaction() as tx:
            await tx.sql.execute("INSERT INTO note VALUES ('open')")
            assert (await storage.inspection.figures())["dead_letters{g}"] == 1.0
            assert await storage.inspection.verify() == []


async def test_figures_of_sagas_go_by_their_indexes(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with with_table(path):
        beside = sqlite3.connect(path)
        beside.create_function("eventbus_now", 0, lambda: 0)
        for statement, given, index in (
            (saga_figures._STATUS, ("s", "stuck"), "eventbus_saga_open (saga_type=? AND status=?)"),
            (saga_figures._LATE, (), "eventbus_saga_timer_due (saga_type=? AND def_version=? AND "),
        ):
            plan = beside.execute(f"EXPLAIN QUERY PLAN {statement}", given).fetchall()
            named = [row[3] for row in plan if "eventbus_saga" in row[3]]
            assert named
            assert all(line.startswith("SEARCH") and index in line for line in named), plan
        beside.close()


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("DELETE FROM eventbus_parked_keys", "not held"),
        ("DELETE FROM eventbus_parked", "dead keys"),
        ("DELETE FROM eventbus_inbox", "inbox does not know"),
        ("UPDATE eventbus_outbox SET part = (part + 1) % 64", "partition"),
    ],
)
async def test_an_audit_finds_what_no_commit_leaves(
    tmp_path: Path, statement: str, word: str
) -> None:
    path = tmp_path / "a.db"
    async with with_table(path) as storage:
        await kill(storage, "k")
        async with storage.transaction() as tx:
            await tx.outbox.add([message("k"), message(None), message(None, id="foreign")])
        assert await storage.inspection.verify() == []
        broken = sqlite3.connect(path, isolation_level=None)
        broken.execute(statement)
        broken.close()
        (finding,) = await storage.inspection.verify()
        assert word in finding.what
        assert finding.code == "EB9001"


async def test_what_does_not_fit_is_refused() -> None:
    async with with_table(None) as storage:
        inspection = storage.inspection
        for verb, what in (
            ("redrive", Selection(place="outbox")),
            ("retry", Selection(place="dead-letter")),
            ("edit", Selection(place="dead-letter")),
            ("retry", Selection(place="outbox", group="g")),
            ("retry", Selection(place="saga")),
        ):
            with pytest.raises(ConfigurationError) as raised:
                await inspection.change(verb, what, actor="test")  # type: ignore[arg-type] # a loop over literals
            assert raised.value.code == "EB8001"
        with pytest.raises(ConfigurationError) as nothing:
            await inspection.change("pause", Selection(place="parked"), actor="test")
        assert nothing.value.code == "EB8003"
        gone = Selection(place="dead-letter", ids=["gone"])
        with pytest.raises(ConfigurationError) as missing:
            await inspection.change("edit", gone, actor="test", payload=b"2")
        assert missing.value.code == "EB8004"


async def test_what_is_past_its_time_goes_in_batches() -> None:
    now = [1_800_000_000.0]
    async with SqliteStorage(now=lambda: now[0]) as storage:
        await kill(storage, "k")
        for _ in range(3):
            async with storage.transaction() as tx:
                await tx.inbox.receive([message()], keys=["k"], group="g")
                await tx.inbox.count([message()], group="g")
        async with storage.transaction() as tx:
            names = ["relay/one", "outbox/00"]
            await tx.leases.acquire(names, owner="me", ttl=timedelta(0), limit=2)
        letters = Selection(place="dead-letter")
        await storage.inspection.change("discard", letters, actor="test")
        week = timedelta(days=7)
        assert await storage.prune(inbox=week, limit=100) == 0
        now[0] += 8 * 86_400
        assert await storage.prune(inbox=week, limit=2) == 2 + 2 + 1
        assert await storage.prune(inbox=week, limit=100) == 2 + 1
        now[0] += 400 * 86_400
        assert await storage.prune(inbox=week, limit=100) == 2
        async with storage.transaction() as tx:
            (lease,) = await tx.leases.acquire(names[1:], owner="me", ttl=week, limit=1)
        assert lease.epoch == 2
