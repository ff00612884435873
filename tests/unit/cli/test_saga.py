"""saga list, show, timers, in-flight, check and the verbs: schemas and exit codes."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from .conftest import Run

JSON = ("-o", "json")
FILE = ("--storage", "sqlite:///sagas.db")
APP = ("--app", "saga_app:bus", "--yes")
CODE = """
import asyncio
from datetime import timedelta

from pydantic import BaseModel

from eventbus import Command, Event, EventBus, Reply
from eventbus.saga import Saga, Undone, starts_on, step


class Placed(Event, type="shop.placed", key="order"):
    order: str


class Reserved(Reply, type="stock.reserved"):
    place: str


class Reserve(Command[Reserved], type="stock.reserve", key="order"):
    order: str


class Release(Command[Undone], type="stock.release", key="order"):
    order: str


class State(BaseModel):
    order: str


class Order(Saga[State], name="order", step_timeout=timedelta(minutes=1)):
    @starts_on(Placed)
    def begin(self, event: Placed) -> State:
        return State(order=event.order)

    @step
    def reserve(self, s: State) -> Reserve:
        return Reserve(order=s.order)

    @reserve.undo
    def release(self, s: State, reply: Reserved | None) -> Release:
        return Release(order=s.order)


bus = EventBus("memory://", storage="sqlite:///sagas.db", service="shop", handlers=[Order])


async def fill() -> None:
    async with bus.client():
        for order in ("A-1", "A-2"):
            await bus.sagas.start(Placed(order=order))


if __name__ == "__main__":
    asyncio.run(fill())
"""


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What two sagas left that wait for their first answers."""
    folder = tmp_path_factory.mktemp("sagas")
    (folder / "saga_app.py").write_text(CODE, encoding="utf-8")
    subprocess.run([sys.executable, "saga_app.py"], check=True, cwd=folder, timeout=110)
    return (folder / "sagas.db").read_bytes()


@pytest.fixture(autouse=True)
def sagas(project: Path, left: bytes) -> Path:
    (project / "saga_app.py").write_text(CODE, encoding="utf-8")
    (project / "sagas.db").write_bytes(left)
    return project


def ids(run: Run, *filters: str) -> list[str]:
    rows = run("saga", "list", *filters, *FILE, *JSON).fits("sagas").result
    return [row["id"] for row in rows]


def test_a_list_shows_what_the_filters_pick_without_code(run: Run) -> None:
    rows = run("saga", "list", *FILE, *JSON).fits("sagas").result
    assert [(row["key"], row["status"], row["step"]) for row in rows] == [
        ("A-1", "running", "reserve"),
        ("A-2", "running", "reserve"),
    ]
    assert ids(run, "--status", "stuck") == []
    assert ids(run, "--older-than", "1h") == []
    assert len(ids(run, "--type", "order", "--step", "reserve", "--limit", "1")) == 1


def test_one_saga_is_shown_with_steps_timers_and_journal(run: Run) -> None:
    first = ids(run)[0]
    told = run("saga", "show", first, *FILE, *JSON).fits("saga-show").result
    assert [(row["name"], row["status"]) for row in told["steps"]] == [("reserve", "dispatched")]
    assert [row["timer"] for row in told["timers"]] == ["step:0"]
    assert [row["input"] for row in told["journal"]] == ["started"]
    assert "reserve  dispatched" in run("saga", "show", first, *FILE).out
    missing = run("saga", "show", str(uuid4()), *FILE)
    assert (missing.code, missing.err[:6]) == (5, "EB7067")


def test_one_saga_is_found_by_its_business_key(run: Run) -> None:
    (first,) = ids(run, "--key", "A-2")
    told = run("saga", "show", "--key", "A-2", *FILE, *JSON).fits("saga-show").result
    assert told["id"] == first
    again = run("saga", "show", "--key", "A-2", "--type", "order", *FILE, *JSON).result
    assert again["id"] == first
    for which in (("--key", "A-9"), ("--key", "A-2", "--type", "orders")):
        assert run("saga", "show", *which, *FILE).err[:6] == "EB7067"
    assert run("saga", "show", *FILE).err[:6] == "EB8001"
    assert run("saga", "show", first, "--key", "A-2", *FILE).err[:6] == "EB8001"
    changed = run("saga", "pause", "--key", "A-2", *APP, *JSON).result["changed"]
    assert [row["id"] for row in changed] == [first]


def test_a_verb_that_finds_no_saga_says_so(run: Run) -> None:
    told = run("saga", "retry", "--status", "stuck", *APP)
    assert (told.code, told.out) == (0, "0 sagas found\n"), "a set may be empty"
    healthy = run("saga", "retry", "--key", "A-1", "--status", "stuck", *APP)
    assert (healthy.code, healthy.out) == (0, "0 sagas found\n")


def test_a_verb_for_what_is_named_and_not_there_is_refused(run: Run) -> None:
    missing = run("saga", "retry", "--key", "A-9", *APP)
    assert (missing.code, missing.err[:6]) == (5, "EB7067")
    misspelt = run("saga", "cancel", "--type", "ordre", *APP)
    assert (misspelt.code, misspelt.err[:6]) == (2, "EB1233")
    assert "did you mean order?" in misspelt.err
    none = run("saga", "pause", str(uuid4()), str(uuid4()), *APP, *JSON)
    assert none.code == 5, "none of them was changed"
    assert len(none.fits("saga-change").result["refused"]) == 2


def test_a_verb_for_a_saga_of_another_version_says_what_is_missing(run: Run, sagas: Path) -> None:
    first = ids(run)[0]
    later = CODE.replace('name="order"', 'name="order", version=2')
    (sagas / "saga_app.py").write_text(later, encoding="utf-8")
    told = run("saga", "pause", first, *APP)
    assert (told.code, told.err[:6]) == (5, "EB7067")
    assert "this bus has no class of order v1" in told.err
    assert run("saga", "show", first, *FILE).code == 0


def test_timers_are_listed_those_that_are_due_apart(run: Run) -> None:
    rows = run("saga", "timers", *FILE, *JSON).fits("saga-timers").result
    assert [row["key"] for row in rows] == ["A-1", "A-2"]
    assert run("saga", "timers", "--due", *FILE, *JSON).result == []


def test_a_verb_changes_what_is_named_and_the_journal_has_who_and_why(run: Run) -> None:
    first = ids(run)[0]
    told = run("saga", "pause", first, "--reason", "to look", *APP, *JSON)
    assert told.fits("saga-change").result["changed"] == [
        {"id": first, "status": "running", "preview": None}
    ]
    last = run("saga", "show", first, *FILE, *JSON).result["journal"][-1]
    assert (last["id"], last["reason"]) == ("pause", "to look")
    assert last["actor"]
    assert run("saga", "resume", first, *APP).code == 0


def test_what_is_refused_for_one_saga_is_an_error_and_for_many_a_line(run: Run) -> None:
    first, second = ids(run)
    refused = run("saga", "skip", first, "--reason", "no", *APP)
    assert (refused.code, refused.err[:6]) == (5, "EB7068")
    run("saga", "pause", first, *APP)
    told = run("saga", "pause", "--type", "order", *APP, *JSON)
    assert told.code == 4
    assert [row["id"] for row in told.fits("saga-change").result["changed"]] == [second]
    assert [row["why"] for row in told.result["refused"]] == ["it is paused"]


def test_a_dry_run_says_the_status_and_changes_nothing(run: Run) -> None:
    first = ids(run)[0]
    told = run("saga", "compensate", first, "--app", "saga_app:bus", "--dry-run", *JSON)
    sends = "would send: 1 Release (reserve: unknown)  ·  pivot not passed"
    assert told.fits("saga-change").result["changed"] == [
        {"id": first, "status": "compensating", "preview": sends}
    ]
    lines = run("saga", "compensate", first, "--app", "saga_app:bus", "--dry-run").out.splitlines()
    assert lines == [f"{first}  would be compensating", f"  {sends}"]
    assert ids(run, "--status", "compensating") == []
    assert run("saga", "compensate", "--type", "order", *APP).code == 0
    last = run("saga", "show", first, *FILE, *JSON).fits("saga-show").result["journal"][-1]
    assert (last["id"], last["preview"]) == ("compensate", sends)  # what its operator saw
    assert len(ids(run, "--status", "compensating")) == 2


def test_a_change_of_everything_and_one_without_a_yes_are_refused(run: Run) -> None:
    assert run("saga", "cancel", *APP).err[:6] == "EB8003"
    assert run("saga", "resolve", "--step", "reserve", "--as", "done", *APP).err[:6] == "EB8003"
    assert run("saga", "resolve", ids(run)[0], "--as", "done", *APP).err[:6] == "EB8001"
    unsure = run("saga", "cancel", ids(run)[0], "--app", "saga_app:bus")
    assert (unsure.code, unsure.err.splitlines()[-4][:6]) == (5, "EB8002")


def test_a_build_that_would_strand_open_sagas_is_found(run: Run, sagas: Path) -> None:
    told = run("saga", "in-flight", *FILE, *JSON).fits("saga-in-flight")
    assert told.result[0]["count"] == 2
    file = sagas / "open.json"
    file.write_text(told.out, encoding="utf-8")
    same = run("saga", "check", "--in-flight", str(file), *APP, *JSON)
    assert (same.code, same.fits("saga-check").result["ok"]) == (0, True)
    rows = told.result
    for change, why in (
        ({"saga": "gone"}, "no such saga"),
        ({"digest": "00"}, "without a new version"),
        ({"version": 7}, "no @migrates"),
    ):
        file.write_text(json.dumps([{**rows[0], **change}]), encoding="utf-8")
        found = run("saga", "check", "--in-flight", str(file), *APP, *JSON)
        assert found.code == 1
        assert why in found.fits("saga-check").result["stranded"][0]["why"]
    file.write_text("[1]", encoding="utf-8")
    assert run("saga", "check", "--in-flight", str(file), *APP).err[:6] == "EB8001"


def test_a_worker_of_a_saga_that_is_not_there_is_refused(run: Run) -> None:
    told = run("saga", "worker", "saga_app:bus", "--type", "orders")
    assert (told.code, told.err.splitlines()[0]) == (2, "EB1233 the app has no saga 'orders'")
    assert "did you mean order?" in told.err


@pytest.mark.skipif(sys.platform == "win32", reason="capability POSIX signals")
def test_a_worker_runs_sagas_and_the_relay_of_their_commands_until_it_is_told(
    sagas: Path,
) -> None:
    command = [sys.executable, "-m", "eventbus", "saga", "worker", "saga_app:bus"]
    process = subprocess.Popen(
        [*command, "--type", "order"], cwd=sagas, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        told = ""
        for line in process.stderr:
            told += line
            if "ready" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=110) == 0, told
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
    assert "ready" in told
