"""outbox, parked, dead-letter, db: on a real file, with every exit code and schema."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from eventbus.cli.failures import exit_code
from eventbus.cli.flags import Settings
from eventbus.cli.storages import with_storage
from eventbus.errors import CommitUnknownError, EventBusError, StorageError
from eventbus.inspection import Inspected

from .conftest import Ran, Run

FILE = ("--storage", "sqlite:///shop.db")
JSON = ("-o", "json")


def rows(run: Run, *command: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = run(*command, *FILE, *JSON).fits("messages").result
    return found


def first_letter(run: Run) -> str:
    return str(rows(run, "dead-letter", "list")[0]["id"])


def audit(file: Path) -> list[tuple[str, int, str]]:
    with closing(sqlite3.connect(file)) as connection:
        query = "SELECT verb, changed, reason FROM eventbus_audit ORDER BY id"
        return connection.execute(query).fetchall()


def test_lists_show_what_the_bus_left(run: Run, filled: Path) -> None:
    dead = rows(run, "dead-letter", "list")
    assert [(row["key"], row["group"], row["waiting"]) for row in dead] == [
        ("A-1", "dying", 1),
        ("B-2", "dying", 0),
    ]
    parked = rows(run, "parked", "list", "--group", "retrying")
    assert [(row["key"], row["state"]) for row in parked] == [
        ("A-1", "retrying"),
        ("A-1", "queued"),
        ("B-2", "retrying"),
    ]
    assert len(rows(run, "parked", "list", "--key", "B-2")) == 1
    assert rows(run, "outbox", "list") == []


def test_a_table_has_one_line_per_row(run: Run, filled: Path) -> None:
    lines = run("dead-letter", "list", *FILE).out.splitlines()
    assert lines[0].split() == [
        *("ID", "TYPE", "KEY", "GROUP"),
        *("ATTEMPTS", "WAITING", "FINGERPRINT", "ERROR"),
    ]
    assert [line.rsplit("  ", 1)[1] for line in lines[1:]] == ["card refused", "card refused"]


def test_json_lines_are_the_rows(run: Run, filled: Path) -> None:
    lines = run("dead-letter", "list", *FILE, "-o", "jsonl").out.splitlines()
    assert [json.loads(line) | {"age_seconds": 0} for line in lines] == [
        row | {"age_seconds": 0} for row in rows(run, "dead-letter", "list")
    ]


def test_the_app_leads_to_its_storage(run: Run, filled: Path) -> None:
    ran = run("dead-letter", "list", "--app", "shop_app:bus", *JSON)
    assert len(ran.fits("messages").result) == 2


@pytest.mark.parametrize("by", ["fingerprint", "type", "group"])
def test_dead_letters_are_counted_by_kind(run: Run, filled: Path, by: str) -> None:
    counted = run("dead-letter", "list", "--by", by, *FILE, *JSON).fits("counts").result
    assert [row["count"] for row in counted] == [2]
    assert counted[0][by]


def test_one_message_is_shown_whole(run: Run, filled: Path) -> None:
    one = first_letter(run)
    row = run("dead-letter", "show", one, *FILE, *JSON).fits("message").result
    assert (row["error_type"], json.loads(row["payload"])["order"]) == ("ValueError", "A-1")
    text = run("dead-letter", "show", one, *FILE).out
    assert "card refused" in text
    assert '"order":"A-1"' in text


def test_the_outbox_in_figures(run: Run, filled: Path) -> None:
    status = run("outbox", "status", *FILE, *JSON).fits("outbox-status").result
    assert status["pending_messages"] == 0
    assert "pending messages" in run("outbox", "status", *FILE).out


def test_a_change_without_a_terminal_needs_yes(run: Run, filled: Path) -> None:
    ran = run("dead-letter", "redrive", "--filter", "group=dying", *FILE)
    assert ran.code == 5
    assert ran.err.splitlines()[0] == "2 keys of dead-letter: tried again"
    assert ran.err.splitlines()[1].startswith("EB8002")
    assert audit(filled / "shop.db") == []


def test_a_dry_run_counts_and_changes_nothing(run: Run, filled: Path) -> None:
    ran = run("dead-letter", "redrive", "--filter", "key=A-1", *FILE, *JSON, "--dry-run")
    assert ran.fits("change").result["count"] == 1
    assert len(rows(run, "dead-letter", "list")) == 2
    assert audit(filled / "shop.db") == []


def test_redrive_discard_restore_and_their_audit(run: Run, filled: Path) -> None:
    first, second = (str(row["id"]) for row in rows(run, "dead-letter", "list"))
    args = (*FILE, *JSON, "--yes")
    ran = run("dead-letter", "discard", second, "--reason", "a test order", *args)
    assert ran.fits("change").result["count"] == 1
    assert len(rows(run, "dead-letter", "list")) == 1
    assert run("dead-letter", "restore", second, *args).fits("change").result["count"] == 1
    assert len(rows(run, "dead-letter", "list")) == 2
    ran = run("dead-letter", "redrive", first, second, "--rate", "50/s", *args)
    assert (ran.code, ran.fits("change").result["count"]) == (0, 2)
    assert rows(run, "dead-letter", "list") == []
    assert audit(filled / "shop.db") == [
        ("discard", 1, "a test order"),
        ("restore", 1, ""),
        ("redrive", 2, ""),
    ]


def test_bury_release_and_pause(run: Run, filled: Path) -> None:
    parked = rows(run, "parked", "list", "--group", "retrying", "--key", "B-2")
    args = (*FILE, *JSON, "--yes")
    assert run("parked", "release", "--key", "B-2", *args).fits("change").result["count"] == 1
    ran = run("parked", "bury", str(parked[0]["id"]), "--group", "retrying", *args)
    assert ran.fits("change").result == {
        "verb": "bury",
        "place": "parked",
        "count": 1,
        "unit": "key",
        "dry_run": False,
        "missing": [],
    }
    assert len(rows(run, "dead-letter", "list")) == 3
    for place in (("parked", "--group", "fine"), ("outbox",)):
        for verb in ("pause", "resume"):
            ran = run(place[0], verb, *place[1:], *args)
            assert ran.fits("change").result["count"] == 1


def test_pausing_parked_messages_needs_a_group(run: Run, filled: Path) -> None:
    assert run("parked", "pause", *FILE, "--yes").code == 2


@pytest.mark.parametrize(
    "command",
    [
        ("outbox", "retry"),
        ("parked", "release"),
        ("dead-letter", "redrive"),
        ("dead-letter", "discard"),
        ("dead-letter", "restore"),
    ],
)
def test_a_change_never_takes_nothing_for_all(run: Run, filled: Path, command: str) -> None:
    ran = run(*command, *FILE, "--yes")
    assert (ran.code, ran.err[:6]) == (2, "EB8003")


@pytest.mark.parametrize(
    "command",
    [
        ("outbox", "retry"),
        ("parked", "release"),
        ("parked", "show"),
        ("dead-letter", "redrive"),
        ("dead-letter", "restore"),
        ("dead-letter", "show"),
    ],
)
def test_an_unknown_id_is_refused(run: Run, filled: Path, command: str) -> None:
    ran = run(*command, "no-such-id", *FILE, *JSON)
    assert (ran.code, json.loads(ran.err.splitlines()[-1])["code"]) == (5, "EB8004")


def test_a_change_of_which_some_are_missing_is_partly_done(run: Run, filled: Path) -> None:
    one = first_letter(run)
    ran = run("dead-letter", "redrive", one, "no-such-id", *FILE, *JSON, "--yes")
    assert ran.code == 4
    assert ran.fits("change").result["missing"] == ["no-such-id"]
    assert ran.result["count"] == 1


def test_an_edited_body_must_be_readable_by_the_app(run: Run, filled: Path) -> None:
    one = first_letter(run)
    args = ("--app", "shop_app:bus", *JSON, "--yes")
    ran = run("dead-letter", "edit", one, "--data", '{"cents": 1}', *args)
    assert ran.code == 5
    assert "EB3102" in ran.err
    (filled / "new.json").write_text('{"order": "A-1", "cents": 5}')
    ran = run("dead-letter", "edit", one, "--data", "@new.json", *args)
    assert ran.fits("change").result["count"] == 1
    shown = run("dead-letter", "show", one, *FILE, *JSON).result
    assert json.loads(shown["payload"]) == {"order": "A-1", "cents": 5}


def test_an_export_holds_every_dead_letter(run: Run, filled: Path) -> None:
    run("dead-letter", "export", "--file", "dead.jsonl", *FILE)
    lines = (filled / "dead.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["A-1", "B-2"]
    assert len(run("dead-letter", "export", *FILE).out.splitlines()) == 2


def test_a_file_that_is_not_there_cannot_be_reached_and_is_not_created(
    run: Run, project: Path
) -> None:
    ran = run("parked", "list", "--storage", "sqlite:///nowhere.db")
    assert (ran.code, ran.err[:6]) == (3, "EB5001")
    assert len(ran.err.splitlines()) <= 6
    assert not (project / "nowhere.db").exists()


def test_a_database_in_memory_cannot_be_looked_into(run: Run) -> None:
    assert run("parked", "list", "--storage", "sqlite://").code == 2


def test_a_storage_that_nobody_named_is_a_usage_error(run: Run) -> None:
    assert run("parked", "list").err.startswith("EB8001 no storage was named")


def test_the_schema_is_upgraded_on_demand(run: Run, project: Path) -> None:
    new = ("--storage", "sqlite:///new.db")
    status = run("db", "status", *new, *JSON).fits("db-status").result
    assert [step["applied"] for step in status] == [False] * len(status)
    assert "CREATE TABLE eventbus_outbox" in run("db", "upgrade", "--sql", *new).out
    assert run("db", "upgrade", *new).code == 5
    assert not (project / "new.db").exists()
    dry = run("db", "upgrade", *new, *JSON, "--dry-run").fits("db-upgrade").result
    assert dry == {"applied": [step["name"] for step in status], "dry_run": True}
    assert run("db", "upgrade", *new, "--yes").code == 0
    status = run("db", "status", *new, *JSON).result
    assert all(step["applied"] for step in status)
    assert run("db", "upgrade", *new, *JSON).result["applied"] == []
    assert run("db", "check", *new, *JSON).fits("db-check").result == {"ok": True, "findings": []}


def test_a_new_incarnation_of_a_file_leaves_its_audit_row(run: Run, filled: Path) -> None:
    with closing(sqlite3.connect(filled / "shop.db")) as connection:
        before = connection.execute("SELECT incarnation FROM eventbus_store_info").fetchone()
    assert run("db", "upgrade", *FILE, "--new-incarnation", "--yes").code == 0
    with closing(sqlite3.connect(filled / "shop.db")) as connection:
        after = connection.execute("SELECT incarnation FROM eventbus_store_info").fetchone()
        audit = connection.execute(
            "SELECT verb, selection, changed, abs(at - unixepoch() * 1000) < 60000"
            " FROM eventbus_audit"
        ).fetchall()
    assert after != before
    assert audit == [("new-incarnation", after[0], 0, 1)]


def test_a_schema_that_is_missing_is_a_precondition(run: Run, project: Path) -> None:
    sqlite3.connect(project / "empty.db").close()
    ran = run("parked", "list", "--storage", "sqlite:///empty.db")
    assert (ran.code, ran.err[:6]) == (5, "EB5302")
    assert ran.err.splitlines()[-1] == "  next  eventbus db upgrade"


def test_a_broken_rule_is_found_by_the_check(run: Run, filled: Path) -> None:
    with closing(sqlite3.connect(filled / "shop.db")) as connection:
        connection.execute("DELETE FROM eventbus_parked_keys WHERE key = 'A-1'")
        connection.commit()
    ran = run("db", "check", *FILE, *JSON).fits("db-check")
    assert (ran.code, ran.result["ok"]) == (1, False)


def test_a_database_that_does_not_answer_is_waited_for_as_long_as_was_said(filled: Path) -> None:
    settings = Settings()
    settings.storage, settings.timeout = FILE[1], 0.05

    async def ask(storage: Inspected) -> None:
        await asyncio.Event().wait()

    with pytest.raises(StorageError) as caught:
        with_storage(settings, ask)
    assert (caught.value.code, exit_code(caught.value)) == ("EB5007", 3)


def test_an_unknown_outcome_has_its_own_code() -> None:
    error = CommitUnknownError("EB5101", "unknown", ids=(), where="", why="", next="")
    assert exit_code(error) == 6


@pytest.mark.parametrize(
    ("code", "exit"),
    [
        ("EB1002", 2),
        ("EB1110", 2),
        ("EB2001", 3),
        ("EB2104", 6),
        ("EB3102", 5),
        ("EB4105", 2),
        ("EB5001", 3),
        ("EB5302", 5),
        ("EB8001", 2),
        ("EB8002", 5),
        ("EB9001", 70),
    ],
)
def test_the_code_of_an_error_decides_the_exit_code(code: str, exit: int) -> None:
    assert exit_code(EventBusError(code, "", where="", why="", next="")) == exit


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminal")
@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, 1), (b"n\n", 5, 2)])
def test_on_a_terminal_a_change_asks(
    run: Run, filled: Path, answer: bytes, code: int, left: int
) -> None:
    import pty

    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        command = [sys.executable, "-m", "eventbus", "dead-letter", "redrive", *FILE]
        ran = subprocess.run(
            [*command, "--filter", "key=B-2"],
            check=False,
            stdin=theirs,
            capture_output=True,
            timeout=110,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (ran.returncode, b"go on?" in ran.stderr) == (code, True)
    assert len(rows(run, "dead-letter", "list")) == left


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminal")
@pytest.mark.parametrize(("more", "bold"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_a_cut_table_with_a_bold_heading(
    filled: Path, more: dict[str, str], bold: bool
) -> None:
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "60", **more}
    command = [sys.executable, "-m", "eventbus", "dead-letter", "list", *FILE]
    try:
        subprocess.run(command, stdout=theirs, env=environment, check=True, timeout=110)
        shown = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert ("\x1b[1m" in shown) is bold
    assert [line[-1] for line in shown.splitlines()[1:]] == ["…", "…"]
    assert max(map(len, shown.splitlines()[1:])) == 60


def test_the_commands_work_beside_a_bus_that_runs(run: Run, filled: Path) -> None:
    code = (
        "import asyncio, sys; from shop_app import bus\n"
        "async def hold():\n"
        "    async with bus:\n"
        "        print('entered', flush=True)\n"
        "        await asyncio.to_thread(sys.stdin.readline)\n"
        "asyncio.run(hold())"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as bus:
        assert bus.stdout is not None
        assert bus.stdout.readline() == "entered\n"
        found: Ran = run("parked", "list", *FILE, *JSON)
        paused: Ran = run("outbox", "pause", *FILE, *JSON, "--yes")
        bus.communicate("\n", timeout=110)
    assert (found.code, len(found.result) > 0) == (0, True)
    assert paused.result["count"] == 1
