"""What a transaction sends, what cancellation leaves, how a commit may end."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest

from eventbus.errors import CommitUnknownError, StorageError
from eventbus.message import Message
from eventbus.sqlite import SqliteStorage
from eventbus.sqlite.session import Session
from eventbus.storage import Transaction
from tests.unit.sqlite.helpers import Gate, message, notes, with_table

INSERT = "INSERT INTO note VALUES ($1)"


async def handle_a_batch(storage: SqliteStorage, start: int) -> None:
    batch = [message() for _ in range(20)]
    async with storage.transaction() as tx:
        await tx.inbox.receive(batch, keys=["k"] * 20, group="g")
        for number in range(20):
            async with tx.savepoint():
                await tx.sql.execute(INSERT, f"{start + number}")
                await tx.outbox.add([message()])


async def test_a_batch_of_slow_statements_costs_one_hop_per_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus.sqlite.worker.QUICK_SECONDS", -1.0)
    async with with_table(tmp_path / "a.db") as storage:
        before = storage._worker.hops
        await handle_a_batch(storage, 0)
        begin, receive, inserts, flush, commit = 1, 1, 20, 1, 1
        assert storage._worker.hops - before == begin + receive + inserts + flush + commit


async def test_a_batch_of_quick_statements_costs_one_hop_for_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus.sqlite.worker.QUICK_SECONDS", 1e9)
    async with with_table(tmp_path / "a.db") as storage:
        await handle_a_batch(storage, 0)  # what was never seen goes to the thread
        before = storage._worker.hops
        await handle_a_batch(storage, 20)
        assert storage._worker.hops - before == 1


async def test_a_transaction_that_only_reads_costs_no_hop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus.sqlite.worker.QUICK_SECONDS", 1e9)
    async with with_table(tmp_path / "a.db") as storage:
        await notes(storage)
        before = storage._worker.hops
        await notes(storage)
        assert storage._worker.hops == before


async def test_a_statement_that_was_slow_leaves_the_loop_alone(tmp_path: Path) -> None:
    slow = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
    SELECT max(i) AS top FROM n"""
    async with with_table(tmp_path / "a.db") as storage:
        for _ in range(3):
            before = storage._worker.hops
            async with storage.transaction() as tx:
                assert (await tx.sql.fetch(slow))[0]["top"] == 100_000
            assert storage._worker.hops > before


@pytest.mark.parametrize("in_savepoint", [False, True])
async def test_cancelled_in_mid_statement_nothing_half_is_kept(
    tmp_path: Path, in_savepoint: bool
) -> None:
    async with with_table(tmp_path / "a.db") as storage:
        gate = Gate("INSERT INTO note VALUES ('half')")

        async def work() -> None:
            async with storage.transaction() as tx:
                await tx.sql.execute("INSERT INTO note VALUES ('first')")
                if not in_savepoint:
                    await tx.sql.execute("INSERT INTO note VALUES ('half')")
                async with tx.savepoint():
                    await tx.sql.execute("INSERT INTO note VALUES ('half')")

        await gate.watch(storage)
        task = asyncio.create_task(work(), name="test:work")
        await gate.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        waiting = asyncio.create_task(notes(storage), name="test:notes")
        gate.open()
        assert await waiting == []
        async with storage.transaction() as tx:
            await tx.sql.execute(INSERT, "next")
        assert await notes(storage) == ["next"]


async def test_a_time_out_in_a_savepoint_costs_only_the_savepoint(tmp_path: Path) -> None:
    async with with_table(tmp_path / "a.db") as storage:
        gate = Gate("INSERT INTO note VALUES ('late')")
        await gate.watch(storage)
        async with storage.transaction() as tx:
            await tx.sql.execute(INSERT, "before")
            with pytest.raises(TimeoutError):
                await run_into_a_time_out(tx, gate)
            gate.open()
            await tx.sql.execute(INSERT, "after")
        assert await notes(storage) == ["after", "before"]


async def run_into_a_time_out(tx: Transaction, gate: Gate) -> None:
    async def expire() -> None:
        await gate.reached.wait()
        limit.reschedule(asyncio.get_running_loop().time())

    expiring = asyncio.create_task(expire(), name="test:expire")
    async with asyncio.timeout(None) as limit, tx.savepoint():
        await tx.sql.execute("INSERT INTO note VALUES ('late')")
    await expiring


async def test_a_commit_that_was_cancelled_is_reported_when_it_is_certain(tmp_path: Path) -> None:
    async with with_table(tmp_path / "a.db") as storage:
        gate = Gate("COMMIT")

        async def work() -> None:
            async with storage.transaction() as tx:
                await tx.sql.execute(INSERT, "kept")

        await gate.watch(storage)
        task = asyncio.create_task(work(), name="test:work")
        await gate.reached.wait()
        task.cancel()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await notes(storage) == ["kept"]


class BrokenCommits(sqlite3.Connection):
    """Fails a commit as a failed fsync does: SQLite does not say whether it is kept."""

    armed: Literal["", "kept", "gone", "open"] = ""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        how = BrokenCommits.armed
        if sql != "COMMIT" or not how:
            return super().execute(sql, parameters)
        BrokenCommits.armed = ""
        if how != "open":
            super().execute("COMMIT" if how == "kept" else "ROLLBACK")
        raise sqlite3.OperationalError("disk I/O error")


@pytest.fixture
def _broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    connect = sqlite3.connect

    def connect_broken(*args: Any, **options: Any) -> sqlite3.Connection:
        return connect(*args, **options, factory=BrokenCommits)

    monkeypatch.setattr(sqlite3, "connect", connect_broken)
    yield
    BrokenCommits.armed = ""


@pytest.mark.usefixtures("_broken")
@pytest.mark.parametrize(("how", "verdict"), [("kept", "committed"), ("gone", "rolled_back")])
@pytest.mark.parametrize("what", ["outbox", "inbox"])
async def test_an_unknown_commit_is_resolved_by_what_it_wrote(
    tmp_path: Path,
    how: Literal["kept", "gone"],
    verdict: str,
    what: str,
) -> None:
    sent = message()
    async with with_table(tmp_path / "a.db") as storage:
        with pytest.raises(CommitUnknownError) as raised:
            await write_until_the_commit(storage, what, sent, how)
        assert raised.value.code == "EB5101"
        assert list(raised.value.ids) == ([sent.id] if what == "outbox" else [])
        assert await raised.value.resolve() == verdict
        assert await notes(storage) == (["note"] if how == "kept" else [])


async def write_until_the_commit(
    storage: SqliteStorage, what: str, sent: Message, how: Literal["kept", "gone", "open"]
) -> None:
    async with storage.transaction() as tx:
        await tx.sql.execute(INSERT, "note")
        if what == "outbox":
            await tx.outbox.add([sent])
        if what == "inbox":
            await tx.inbox.receive([sent], keys=["k"], group="g")
        BrokenCommits.armed = how


@pytest.mark.usefixtures("_broken")
async def test_an_unknown_commit_of_other_rows_only_stays_unknown(tmp_path: Path) -> None:
    async with with_table(tmp_path / "a.db") as storage:
        with pytest.raises(CommitUnknownError) as raised:
            await write_until_the_commit(storage, "note", message(), "gone")
        assert await raised.value.resolve() == "unknown"


@pytest.mark.usefixtures("_broken")
async def test_a_commit_that_failed_and_left_the_transaction_open_is_rolled_back(
    tmp_path: Path,
) -> None:
    async with with_table(tmp_path / "a.db") as storage:
        with pytest.raises(StorageError) as raised:
            await write_until_the_commit(storage, "note", message(), "open")
        assert not isinstance(raised.value, CommitUnknownError)
        assert await notes(storage) == []


async def test_a_file_that_cannot_be_opened_again_is_tried_again_by_the_next_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_table(tmp_path / "a.db") as storage:
        with monkeypatch.context() as without_disk:
            without_disk.setattr(sqlite3, "connect", refuse_to_connect)
            with pytest.raises(sqlite3.OperationalError):
                await storage._worker.do(storage._worker.reopen)
            with pytest.raises(StorageError) as raised:
                await notes(storage)
            assert raised.value.code == "EB5001"
            assert storage.trouble is not None
        assert await notes(storage) == []
        assert storage.trouble is None


def refuse_to_connect(*args: Any, **options: Any) -> sqlite3.Connection:
    error = sqlite3.OperationalError("unable to open database file")
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    raise error


@pytest.mark.parametrize("on_file", [False, True])
async def test_a_full_disk_is_named_and_passes(tmp_path: Path, on_file: bool) -> None:
    async with with_table(tmp_path / "a.db" if on_file else None) as storage:
        await storage._worker.do(limit_pages, storage, 60)
        with pytest.raises(StorageError) as raised:
            async with storage.transaction() as tx:
                await tx.sql.execute("INSERT INTO note VALUES (hex(zeroblob(1000000)))")
        assert raised.value.code == "EB5006"
        assert isinstance(raised.value.__cause__, sqlite3.Error)
        assert storage.trouble is not None
        await storage._worker.do(limit_pages, storage, 100_000)
        async with storage.transaction() as tx:
            await tx.sql.execute(INSERT, "again")
        assert storage.trouble is None
        assert await notes(storage) == ["again"]


def limit_pages(storage: SqliteStorage, pages: int) -> None:
    storage._worker.connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()


async def test_a_writer_in_another_process_is_waited_for_without_holding_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_table(tmp_path / "a.db") as storage:
        await notes(storage)
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        tried = asyncio.Event()
        monkeypatch.setattr(Session, "_wait_to_begin", told(Session._wait_to_begin, tried))
        task = asyncio.create_task(notes(storage), name="test:notes")
        await tried.wait()
        other.execute("INSERT INTO note VALUES ('theirs')")
        other.execute("COMMIT")
        other.close()
        assert await task == ["theirs"]


@pytest.mark.parametrize("always_on_the_thread", [False, True])
@pytest.mark.parametrize("seed", range(3))
async def test_whoever_is_cancelled_when_nothing_is_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, always_on_the_thread: bool
) -> None:
    if always_on_the_thread:
        monkeypatch.setattr("eventbus.sqlite.worker.QUICK_SECONDS", -1.0)
    random = Random(seed)
    async with with_table(tmp_path / "a.db") as storage:
        tasks = []
        for number in range(60):
            tasks.append(asyncio.create_task(write_a_pair(storage, number), name=f"test:{number}"))
            for _ in range(random.randrange(12)):
                await asyncio.sleep(0)
            if random.random() < 0.5:
                random.choice(tasks).cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        there = set(await notes(storage))
        for number, outcome in enumerate(outcomes):
            pair = {f"{number}a", f"{number}b"}
            assert pair & there in (set(), pair)
            assert outcome is not None or pair <= there
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        assert any(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)


async def write_a_pair(storage: SqliteStorage, number: int) -> None:
    async with storage.transaction() as tx:
        await tx.sql.execute(INSERT, f"{number}a")
        async with tx.savepoint():
            await tx.sql.execute(INSERT, f"{number}b")
        await tx.outbox.add([message()])


def told(method: Callable[[Session], None], event: asyncio.Event) -> Callable[[Session], None]:
    loop = asyncio.get_running_loop()

    def tell(session: Session) -> None:
        loop.call_soon_threadsafe(event.set)
        method(session)

    return tell


async def test_a_writer_that_stays_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventbus.sqlite.session.BUSY_SECONDS", 0.0)
    async with with_table(tmp_path / "a.db") as storage:
        other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError) as raised:
            await notes(storage)
        assert raised.value.code == "EB5007"
        other.execute("ROLLBACK")
        other.close()
        assert await notes(storage) == []


async def test_a_task_started_inside_a_transaction_cannot_open_another_one() -> None:
    async with with_table(None) as storage:
        async with storage.transaction() as tx:
            await tx.sql.execute(INSERT, "outer")
            with pytest.raises(StorageError) as raised:
                await asyncio.create_task(notes(storage), name="test:child")
        assert raised.value.code == "EB5002"


async def test_a_task_may_open_one_when_the_transaction_it_was_started_in_is_over() -> None:
    over = asyncio.Event()

    async def later() -> list[str]:
        await over.wait()
        return await notes(storage)

    async with with_table(None) as storage:
        async with storage.transaction() as tx:
            await tx.sql.execute(INSERT, "outer")
            task = asyncio.create_task(later(), name="test:later")
        over.set()
        assert await task == ["outer"]


async def test_transactions_of_two_storages_nest_but_not_across() -> None:
    async with with_table(None) as one, with_table(None) as two, one.transaction():
        assert await notes(two) == []
        async with two.transaction():
            with pytest.raises(StorageError) as raised:
                await notes(one)
            assert raised.value.code == "EB5002"


async def test_a_block_that_swallows_a_failed_statement_is_undone_and_says_so() -> None:
    async with with_table(None) as storage:
        async with storage.transaction() as tx:
            await tx.sql.execute(INSERT, "a")
            with pytest.raises(StorageError) as raised:
                await swallow_a_failure(tx)
            assert raised.value.code == "EB5004"
            assert isinstance(raised.value.__cause__, StorageError)
            assert raised.value.__cause__.code == "EB5005"
        assert await notes(storage) == ["a"]


async def swallow_a_failure(tx: Transaction) -> None:
    async with tx.savepoint():
        await tx.sql.execute(INSERT, "b")
        with suppress(StorageError):
            await tx.sql.execute(INSERT, "a")
