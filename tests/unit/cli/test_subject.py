"""`eventbus subject` and what no command shows: personal data."""

import json
import subprocess
import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest

from .conftest import Run

APP = """
from typing import Annotated

from eventbus import Event, EventBus, Group, Personal, RetryPolicy, subscribe


class Placed(Event, type="shop.placed", key="order"):
    order: str
    customer: str
    email: Annotated[str, Personal(subject="customer")]


@subscribe(Placed, group=Group("dying", retry=RetryPolicy(in_place=0, parked=())))
async def die(event: Placed) -> None:
    raise ValueError(f"no mailbox {event.email}")


bus = EventBus(
    "memory://", storage="sqlite:///shop.db", service="shop", handlers=[die], master_key=b"k" * 32
)
"""
FILL = """
import asyncio
from personal_app import Placed, bus

async def fill() -> None:
    async with bus:
        for customer in ("c-1", "c-2"):
            event = Placed(order="A-1", customer=customer, email=f"{customer}@example.com")
            await bus.events.append(f"order-{customer}", [event], expected="absent")
        await bus.until_idle()

asyncio.run(fill())
"""
FILE, JSON = ("--storage", "sqlite:///shop.db"), ("-o", "json")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("personal")
    (folder / "personal_app.py").write_text(APP, encoding="utf-8")
    subprocess.run([sys.executable, "-c", FILL], check=True, cwd=folder, timeout=110)
    return (folder / "shop.db").read_bytes()


@pytest.fixture
def shop(project: Path, database: bytes) -> Path:
    (project / "personal_app.py").write_text(APP, encoding="utf-8")
    (project / "shop.db").write_bytes(database)
    return project


def test_forgetting_counts_asks_and_leaves_a_list(run: Run, shop: Path) -> None:
    refused = run("subject", "forget", "c-1", *FILE)
    assert (refused.code, "EB8002" in refused.err) == (5, True)
    dry = run("subject", "forget", "c-1", "--dry-run", *FILE, *JSON).fits("subject-forget")
    assert dry.result == {
        "forgotten": [{"tenant": "", "subject": "c-1"}],
        "before": 0,
        "dry_run": True,
    }
    assert run("subject", "list", *FILE, *JSON).fits("subjects").result == []
    done = run("subject", "forget", "c-1", "--yes", "--reason", "asked", *FILE)
    assert (done.code, done.out.splitlines()[0]) == (0, "1 subject forgotten")
    again = run("subject", "forget", "c-1", "--yes", *FILE, *JSON).fits("subject-forget").result
    assert again == {"forgotten": [], "before": 1, "dry_run": False}
    (row,) = run("subject", "list", *FILE, *JSON).fits("subjects").result
    assert (row["tenant"], row["subject"]) == ("", "c-1")
    told = run("event", "search", *FILE, *JSON).fits("events").result
    assert [one["type"] for one in told] == ["shop.placed"] * 2 + ["eventbus.subject-forgotten"]


def test_forgetting_leaves_an_audit_row(run: Run, shop: Path) -> None:
    import sqlite3

    run("subject", "forget", "c-1", "--yes", "--reason", "asked", *FILE)
    connection = sqlite3.connect(shop / "shop.db")
    rows = connection.execute("SELECT verb, selection, changed, reason FROM eventbus_audit")
    assert [(row[0], json.loads(row[1]), *row[2:]) for row in rows] == [
        ("forget", {"tenant": "", "subject": "c-1"}, 1, "asked")
    ]
    connection.close()


def test_a_list_that_was_kept_outside_is_compared_and_applied_again(run: Run, shop: Path) -> None:
    backup = (shop / "shop.db").read_bytes()
    run("subject", "forget", "c-1", "--yes", *FILE)
    (shop / "gone.jsonl").write_text(run("subject", "list", *FILE, "-o", "jsonl").out)
    told = ("--forgotten", "gone.jsonl")
    assert run("doctor", *told, *FILE, *JSON).fits("doctor").code == 0
    for more in ("-wal", "-shm"):
        (shop / f"shop.db{more}").unlink(missing_ok=True)
    (shop / "shop.db").write_bytes(backup)
    found = run("doctor", *told, *FILE, *JSON).fits("doctor")
    (check,) = [row for row in found.result if row["check"] == "forgotten"]
    assert (found.code, check["status"]) == (1, "fail")
    assert check["what"].startswith("1 of 1 ")
    assert check["next"] == "eventbus subject forget --from gone.jsonl"
    assert run("subject", "forget", "--from", "gone.jsonl", "--yes", *FILE).code == 0
    assert run("doctor", *told, *FILE, *JSON).code == 0
    assert run("doctor", *told, "--app", "personal_app:bus", *JSON).code == 0


@pytest.mark.parametrize("line", ["c-1", '{"tenant": ""}', "[1]"])
def test_a_broken_list_is_refused_before_anything_is_forgotten(
    run: Run, shop: Path, line: str
) -> None:
    good = '{"tenant": "", "subject": "c-1"}'
    (shop / "gone.jsonl").write_text(f"{good}\n\n{line}\n")
    refused = run("subject", "forget", "--from", "gone.jsonl", "--yes", *FILE)
    assert (refused.code, "gone.jsonl:3" in refused.err) == (2, True)
    assert run("subject", "list", *FILE, *JSON).result == []


def test_nothing_selected_is_refused(run: Run, shop: Path) -> None:
    refused = run("subject", "forget", "--yes", *FILE)
    assert "EB8003" in refused.err


def test_the_master_key_is_exchanged(run: Run, shop: Path) -> None:
    command = ("subject", "rewrap", "--app", "changed_app:bus", *FILE)
    with_keys(shop, 'b"n" * 32, b"k" * 32')
    asked = run(*command)
    assert (asked.code, "EB8002" in asked.err) == (5, True)
    counted = {"changed": 2, "before": 0, "unopened": 0}
    dry = run(*command, "--dry-run", *JSON).fits("subject-rewrap")
    assert dry.result == {**counted, "dry_run": True}
    done = run(*command, "--yes", "--reason", "yearly", *JSON).fits("subject-rewrap")
    assert done.result == {**counted, "dry_run": False}
    again = run(*command)
    assert (again.code, again.out.splitlines()) == (
        0,
        [
            "0 rewrapped, 2 were before",
            "the first master key opens everything: the others are needed no more",
        ],
    )
    with_keys(shop, 'b"k" * 32')
    lost = run(*command)
    assert (lost.code, "2 open with none of the master keys" in lost.out) == (1, True)


def test_without_a_master_key_nothing_is_rewrapped(run: Run, shop: Path) -> None:
    (shop / "keyless.py").write_text(
        'from eventbus import EventBus\nbus = EventBus("memory://", storage="sqlite:///shop.db")\n'
    )
    refused = run("subject", "rewrap", "--app", "keyless:bus", "--yes")
    assert "EB1122" in refused.err


def with_keys(shop: Path, keys: str) -> None:
    """The app with other master keys; what was imported before is forgotten."""
    sys.modules.pop("changed_app", None)
    (shop / "changed_app.py").write_text(APP.replace('b"k" * 32', f"[{keys}]"), encoding="utf-8")
    invalidate_caches()


@pytest.mark.parametrize("app", [(), ("--app", "personal_app:bus")], ids=["plain", "app"])
@pytest.mark.parametrize("output", ["table", "json", "jsonl"])
def test_no_command_shows_personal_data(
    run: Run, shop: Path, app: tuple[str, ...], output: str
) -> None:
    letters = run("dead-letter", "list", *FILE, *JSON).result
    assert len(letters) == 1
    shown = run("event", "search", *FILE, *JSON).result[0]["id"]
    commands = [
        ("event", "search"),
        ("event", "read", "order-c-1"),
        ("event", "show", shown),
        ("event", "export", "-"),
        ("outbox", "list"),
        ("dead-letter", "list"),
        ("dead-letter", "show", letters[0]["id"]),
    ]
    for command in commands:
        ran = run(*command, *FILE, *app, "-o", output)
        assert ran.code == 0, ran.err
        assert "c-1@" not in ran.out + ran.err
        assert "sealed:" not in ran.out + ran.err
    assert "[personal]" in run("event", "show", shown, *FILE, *app, "-o", output).out
