"""The operators' commands on a real PostgreSQL: same rows, same schemas, same exit codes."""

import asyncio
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from eventbus.errors import StorageError
from eventbus.postgres.config import config_of
from eventbus.postgres.storage import open_storage

from .conftest import APP, Run

JSON = ("-o", "json")
FILL = """
import asyncio, os
from shop_app import Ordered, bus as app

async def fill() -> None:
    bus = app.replace(storage=os.environ["URL"])
    await bus.upgrade()
    async with bus:
        for order in ("A-1", "A-1", "B-2"):
            await bus.publish(Ordered(order=order))
        await bus.until_idle()

asyncio.run(fill())
"""


@pytest.fixture
def url(postgres_url: str, project: Path) -> str:
    return f"{postgres_url}?schema=shop"


@pytest.fixture
def filled(url: str, project: Path) -> str:
    """Dead letters A-1 and B-2 of group dying, one that waits behind A-1; retries of another."""
    (project / "shop_app.py").write_text(APP, encoding="utf-8")
    environment = {**os.environ, "URL": url}
    subprocess.run(
        [sys.executable, "-c", FILL], check=True, cwd=project, env=environment, timeout=60
    )
    return url


def key_of(row: dict[str, Any]) -> str:
    return str(row["key"])


def execute(url: str, *statements: str) -> None:
    async def all_of_them() -> None:
        connection = await asyncpg.connect(url.partition("?")[0], timeout=10, command_timeout=10)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            connection.terminate()

    asyncio.run(all_of_them())


def test_the_schema_is_shown_printed_and_applied(run: Run, url: str) -> None:
    new = ("--storage", url)
    status = run("db", "status", *new, *JSON).fits("db-status").result
    assert [row["applied"] for row in status] == [False] * len(status)
    assert run("db", "check", *new).code == 5  # nothing to check yet
    assert run("db", "upgrade", *new).code == 5  # not confirmed
    dry = run("db", "upgrade", *new, *JSON, "--dry-run").fits("db-upgrade").result
    assert dry["applied"] == [row["name"] for row in status]
    assert run("db", "upgrade", *new, "--yes").code == 0
    status = run("db", "status", *new, *JSON).result
    assert [row["applied"] for row in status] == [True] * len(status)
    assert run("db", "upgrade", *new, *JSON).result["applied"] == []
    assert run("db", "upgrade", "--sql", *new).out == ""
    assert run("db", "check", *new, *JSON).fits("db-check").result == {"ok": True, "findings": []}


def test_the_printed_script_does_what_upgrade_does(run: Run, url: str) -> None:
    script = run("db", "upgrade", "--sql", "--storage", url).out
    assert "CREATE TABLE shop.outbox" in script
    execute(url, script)
    assert run("db", "check", "--storage", url).code == 0
    assert run("db", "upgrade", *JSON, "--storage", url).result["applied"] == []


def test_a_schema_of_a_newer_version_is_refused_by_name(run: Run, url: str) -> None:
    run("db", "upgrade", "--storage", url, "--yes")
    execute(
        url,
        "INSERT INTO shop.migrations (number, name, kind, digest) VALUES (999, 'x', 'expand', '')",
    )
    for command in (("db", "status"), ("verify",), ("outbox", "status")):
        ran = run(*command, "--storage", url)
        assert (ran.code, ran.err.split()[0]) == (5, "EB5301")


def test_a_database_that_is_not_there_ends_with_3(run: Run, project: Path) -> None:
    for command in (("db", "status"), ("verify",), ("parked", "list")):
        ran = run(*command, "--storage", "postgresql://nobody@127.0.0.1:1/nowhere", *JSON)
        assert ran.code == 3
        assert ran.fits("error")


def test_lists_and_changes_are_those_of_any_store(run: Run, filled: str) -> None:
    args = ("--storage", filled, *JSON)
    dead = run("dead-letter", "list", *args).fits("messages").result
    dead.sort(key=key_of)  # keys die at the same time
    assert [(row["key"], row["group"], row["waiting"]) for row in dead] == [
        ("A-1", "dying", 1),
        ("B-2", "dying", 0),
    ]
    shown = run("dead-letter", "show", dead[0]["id"], *args).fits("message").result
    assert json.loads(shown["payload"])["order"] == "A-1"
    counted = run("dead-letter", "list", "--by", "fingerprint", *args).fits("counts").result
    assert [row["count"] for row in counted] == [2]
    parked = run("parked", "list", "--group", "retrying", *args).fits("messages").result
    assert [(row["key"], row["state"]) for row in sorted(parked, key=key_of)] == [
        ("A-1", "retrying"),
        ("A-1", "queued"),
        ("B-2", "retrying"),
    ]
    assert run("outbox", "list", *args).fits("messages").result == []
    status = run("outbox", "status", *args).fits("outbox-status").result
    assert status["pending_messages"] == 0
    yes = (*args, "--yes")
    ids = [row["id"] for row in dead]
    assert run("dead-letter", "discard", ids[1], *yes).fits("change").result["count"] == 1
    assert run("dead-letter", "restore", ids[1], *yes).fits("change").result["count"] == 1
    assert run("parked", "release", "--key", "B-2", *yes).fits("change").result["count"] == 1
    assert run("dead-letter", "redrive", *ids, *yes).fits("change").result["count"] == 2
    assert run("dead-letter", "list", *args).result == []
    assert run("outbox", "pause", *yes).fits("change").result["count"] == 1
    assert run("outbox", "resume", *yes).fits("change").result["count"] == 1


def test_doctor_sees_the_backlog_and_says_what_is_wrong(run: Run, filled: str) -> None:
    checks = run("doctor", "--storage", filled, *JSON).fits("doctor").result
    storage = next(row for row in checks if row["check"] == "storage")
    assert (storage["status"], storage["next"]) == (
        "warn",
        "eventbus dead-letter list --by fingerprint",
    )
    app = run("doctor", "shop_app:bus", "--storage", filled, *JSON).fits("doctor").result
    assert {row["check"]: row["status"] for row in app}["app"] == "ok"
    execute(filled, "DROP SCHEMA shop CASCADE")
    ran = run("doctor", "--storage", filled, *JSON)
    assert ran.code == 1
    broken = next(row for row in ran.result if row["check"] == "storage")
    assert broken["what"].startswith("EB5302")
    typed = shlex.split(broken["next"])  # ready to be typed into a shell
    assert typed[:4] == ["eventbus", "db", "upgrade", "--storage"]
    assert config_of(typed[4], "").schema == config_of(filled, "").schema


@pytest.mark.parametrize(
    ("off", "status", "says"),
    [
        (0.0, "ok", " the database"),
        (3_600.0, "warn", "3600.0 s ahead of the database"),
        (-3_600.0, "warn", "3600.0 s behind the database"),
    ],
)
def test_doctor_compares_the_clocks(
    run: Run, url: str, monkeypatch: pytest.MonkeyPatch, off: float, status: str, says: str
) -> None:
    run("db", "upgrade", "--storage", url, "--yes")
    monkeypatch.setattr("eventbus.cli.checks.time", lambda: time.time() + off)
    checks = run("doctor", "--storage", url, *JSON).fits("doctor").result
    clock = next(row for row in checks if row["check"] == "clock")
    assert clock["status"] == status
    assert says in clock["what"]


def test_after_a_restore_a_new_incarnation_refuses_checkpoints_until_they_are_accepted(
    run: Run, url: str
) -> None:
    storage, fingerprint = ("--storage", url), b"f"
    assert run("db", "upgrade", *storage, "--yes").code == 0
    assert asyncio.run(position(url, fingerprint)) == 0
    assert run("db", "upgrade", *storage, "--new-incarnation").code == 5, "not confirmed"
    dry = run("db", "upgrade", *storage, "--new-incarnation", "--dry-run")
    assert "a new incarnation would begin" in dry.out
    assert asyncio.run(position(url, fingerprint)) == 0
    done = run("db", "upgrade", *storage, "--new-incarnation", "--yes", *JSON).fits("db-upgrade")
    assert done.result == {"applied": [], "dry_run": False, "refused_checkpoints": 1}
    with pytest.raises(StorageError, match="another incarnation") as caught:
        asyncio.run(position(url, fingerprint))
    assert caught.value.code == "EB5202"
    assert asyncio.run(position(url, fingerprint, accept=True)) == 0
    rows = asyncio.run(fetched(url, "SELECT verb, changed, actor FROM shop.audit"))
    assert [(row["verb"], row["changed"]) for row in rows] == [("new-incarnation", 1)]


async def position(url: str, fingerprint: bytes, *, accept: bool = False) -> int:
    async with open_storage(url, "test") as storage, storage.transaction() as tx:
        if accept:
            await tx.checkpoints.accept("orders@", fingerprint=fingerprint)
        return await tx.checkpoints.load("orders@1/0", fingerprint=fingerprint)


async def fetched(url: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(url.partition("?")[0], timeout=10, command_timeout=10)
    try:
        return list(await connection.fetch(query))
    finally:
        connection.terminate()


def test_verify_finds_what_no_commit_leaves(run: Run, filled: str) -> None:
    args = ("--storage", filled, *JSON)
    assert run("verify", *args).fits("verify").result == {"ok": True, "findings": []}
    execute(filled, "DELETE FROM shop.parked_keys WHERE key = 'A-1'")
    ran = run("verify", "--sample", "10", *args).fits("verify")
    assert ran.code == 1
    assert [one["code"] for one in ran.result["findings"]] == ["EB9001"]
    assert "whose key is not held" in run("verify", "--storage", filled).out
