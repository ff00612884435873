"""Behind PgBouncer in transaction mode: no LISTEN, no prepared statements, all the rest holds."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from eventbus.errors import StorageError
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.testing.conformance.samples import (
    LONG,
    at_once,
    failed,
    make_table,
    queued,
    some_message,
    some_messages,
    take,
    take_partitions,
    unique,
)
from eventbus.testing.services.packages import install_packages

PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"


@pytest.fixture(scope="session")
def pgbouncer(pytestconfig: pytest.Config) -> str:
    """The program; where services must be there it is installed like one of them."""
    found = shutil.which("pgbouncer", path=PLACES)
    if found is not None:
        return found
    if not (pytestconfig.getoption("--eventbus-require") or os.environ.get("CI")):
        pytest.skip("capability pgbouncer: it is not installed")
    refused = install_packages("pgbouncer", ["pgbouncer"], print)
    found = shutil.which("pgbouncer", path=PLACES)
    assert found is not None, refused
    return found


@pytest.fixture
async def pooled_url(
    server: str, tmp_path: Path, unused_tcp_port: int, pgbouncer: str
) -> AsyncIterator[str]:
    """A pooler with two connections to the server, for however many clients."""
    parts = urlsplit(server)
    user = parts.username or "postgres"
    target = f"host={parts.hostname} port={parts.port} user={user}"
    if parts.password:
        target += f" password={parts.password}"
    ini = tmp_path / "pgbouncer.ini"
    ini.write_text(
        f"[databases]\n* = {target}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {unused_tcp_port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 2\nmax_client_conn = 100\n"
    )
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(place.stat().st_mode | 0o055)
    ini.chmod(0o644)
    as_user = ["-u", "nobody"] if os.getuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        pgbouncer, *as_user, str(ini), stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await _answers(unused_tcp_port)
        yield urlunsplit(
            parts._replace(netloc=f"{user}@127.0.0.1:{unused_tcp_port}", query="sslmode=disable")
        )
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


@pytest.fixture
async def pooled(server: str, schema: str, pooled_url: str) -> AsyncIterator[PostgresStorage]:
    await PostgresStorage(PostgresConfig(dsn=server, schema=schema)).upgrade()
    config = PostgresConfig(dsn=pooled_url, schema=schema, pgbouncer=True)
    async with PostgresStorage(config) as storage:
        yield storage
        assert storage.pools.idle() == storage.pools.size()


async def test_without_the_flag_it_says_what_is_wrong(
    server: str, schema: str, pooled_url: str
) -> None:
    await PostgresStorage(PostgresConfig(dsn=server, schema=schema)).upgrade()
    with pytest.raises(StorageError) as caught:
        async with PostgresStorage(PostgresConfig(dsn=pooled_url, schema=schema)):
            pass
    assert "pgbouncer=true" in caught.value.next


async def test_it_upgrades_through_the_pooler(server: str, schema: str, pooled_url: str) -> None:
    config = PostgresConfig(dsn=pooled_url, schema=schema, pgbouncer=True)
    await PostgresStorage(config).upgrade()
    async with PostgresStorage(config) as storage:
        assert await storage.prune(inbox=timedelta(days=7), limit=10) == 0


async def test_more_transactions_than_server_connections_all_commit(
    pooled: PostgresStorage,
) -> None:
    table = await make_table(pooled, "n bigint")

    async def write(n: int) -> None:
        for _ in range(5):
            async with pooled.transaction() as tx:
                await tx.sql.execute(f"INSERT INTO {table} VALUES ($1)", n)
                async with tx.savepoint():
                    await tx.sql.execute(f"INSERT INTO {table} VALUES ($1)", n)

    await at_once(*(write(n) for n in range(8)))
    async with pooled.transaction() as tx:
        assert (await tx.sql.fetch(f"SELECT count(*) AS n FROM {table}"))[0]["n"] == 80


async def test_the_whole_path_of_a_message(pooled: PostgresStorage) -> None:
    group, messages = unique("group"), some_messages(3, key="k")
    lease = await take(pooled, f"parked/{group}")
    async with pooled.transaction() as tx:
        found = await tx.inbox.receive(messages, keys=["k"] * 3, group=group)
        await tx.outbox.add(messages)
        await tx.outbox.add([some_message()], delay=LONG)
        await tx.parking.park([failed(messages[0]), queued(messages[1])], group=group)
    assert len(found.new) == 3
    leases = await take_partitions(pooled)
    async with pooled.transaction() as tx:
        await tx.outbox.promote(leases, limit=10)
        rows = await tx.outbox.read(leases, limit=10)
        assert await tx.outbox.settle(leases, rows) == 3
    async with pooled.transaction() as tx:
        behind = await tx.parking.behind(lease, "k", group=group, limit=9, closing=True)
        assert behind is not None
        await tx.parking.settle(lease, behind, group=group)
    async with pooled.transaction() as tx:
        assert await tx.parking.keys(group=group, limit=9) == frozenset()
    assert (await pooled.inspection.figures())["outbox_pending_messages"] == 0
    assert await pooled.inspection.verify() == []


async def test_time_outs_are_those_of_the_transaction_and_leave_nothing_behind(
    pooled: PostgresStorage,
) -> None:
    async with pooled.transaction() as tx:
        rows = await tx.sql.fetch("SELECT current_setting('lock_timeout') AS t")
    assert rows[0]["t"] == "5s"
    async with pooled.pools.connecting() as connection:
        assert await connection.fetchval("SELECT current_setting('lock_timeout')") == "0"


async def test_hints_come_within_the_process_and_the_report_says_so(
    pooled: PostgresStorage,
) -> None:
    await pooled.wait("outbox", at_most=timedelta())
    async with pooled.transaction() as tx:
        await tx.outbox.add([some_message()])
    async with asyncio.timeout(30):
        await pooled.wait("outbox", at_most=LONG)
    assert "EB1117" in {finding.code for finding in await pooled.examine()}


async def _answers(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return
