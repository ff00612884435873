"""eventbus projection: on a real file, with its exit codes and schemas."""

import asyncio
import gc
import json
import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from eventbus.cli.flags import Settings
from eventbus.cli.helping import arguments, environment
from eventbus.cli.rebuilding import Pace, line
from eventbus.sourcing.rebuild import Beat, Options
from eventbus.storage.events import Position

from .conftest import Run

APP = "projection_app:bus"
JSON = ("-o", "json")
YES = ("--yes",)
PROJECTION_APP = """
import sys

from eventbus import Event, EventBus
from eventbus.sourcing import FoldingProjection, ReadModel, projects

FACTOR = 1


class Ordered(Event, type="shop.ordered", key="order"):
    order: str
    country: str
    cents: int


class Revenue(ReadModel, table="revenue", key="country"):
    country: str
    cents: int = 0


class Revenues(FoldingProjection[Revenue], name="revenue"):
    @projects(Ordered, key=lambda event: event.country)
    def ordered(self, row: Revenue, event: Ordered) -> Revenue:
        return row.model_copy(update={"cents": row.cents + FACTOR * event.cents})


bus = EventBus("memory://", storage="sqlite:///app.db", handlers=[sys.modules[__name__]])
nowhere = EventBus("memory://", handlers=[])
"""
LEDGER_APP = """
from collections.abc import Sequence

from eventbus import Event, EventBus
from eventbus.sourcing import RecordedEvent, View



class Ordered(Event, type="shop.ordered", key="order"):
    order: str
    cents: int


class Ledger:
    name = "ledger"
    handles = (Ordered,)
    tables = ("ledger",)

    async def apply(self, events: Sequence[RecordedEvent], view: View) -> None:
        for one in events:
            await view.sql.execute(
                f"INSERT INTO {view.table('ledger')} (place, cents) VALUES ($1, $2)",
                one.recorded.position,
                one.event.cents,
            )


bus = EventBus("memory://", storage="sqlite:///ledger.db", handlers=[Ledger()])
"""


@pytest.fixture
def app(project: Path) -> Any:
    """An app whose projection has followed four orders."""
    (project / "projection_app.py").write_text(PROJECTION_APP, encoding="utf-8")
    module: Any = import_module("projection_app")

    async def fill() -> None:
        async with module.bus as bus:
            for number, country in enumerate(("UK", "FR", "UK", "DE")):
                event = module.Ordered(order=str(number), country=country, cents=number)
                await bus.events.append(f"order-{number}", [event], expected="absent")
            await bus.until_idle()

    asyncio.run(fill())
    return module


def test_list_and_status_say_where_it_stands(app: Any, run: Run) -> None:
    (one,) = run("projection", "list", APP, *JSON).fits("projections").result
    assert (one["name"], one["version"], one["lag_events"], one["cause"]) == ("revenue", 1, 0, None)
    status = run("projection", "status", "revenue", APP, *JSON).fits("projection-status").result
    assert list(status["positions"]) == ["revenue@1/0"]
    assert "revenue  v1  following  lag 0 events" in run("projection", "status", APP).out
    assert "revenue" in run("projection", "list", APP).out


def test_a_projection_that_nobody_has_is_a_usage_error(app: Any, run: Run) -> None:
    ran = run("projection", "status", "revenu", APP)
    assert ran.code == 2
    assert "EB6007" in ran.err
    assert "revenue" in ran.err
    unsure = run("projection", "rebuild", "revenu", APP)
    assert (unsure.code, unsure.err[:6]) == (2, "EB6007"), "before anybody is asked to confirm it"


def test_an_app_without_a_storage_has_none(app: Any, run: Run) -> None:
    ran = run("projection", "list", "projection_app:nowhere")
    assert ran.code == 2
    assert "EB8001" in ran.err


def test_pause_and_resume_ask_first_and_say_what_they_did(app: Any, run: Run) -> None:
    assert run("projection", "pause", "revenue", APP).code == 5
    paused = run("projection", "pause", "revenue", APP, *YES, *JSON).fits("projection-change")
    assert paused.result["count"] == 1
    status = run("projection", "status", "revenue", APP, *JSON).result
    assert status["cause"] == "paused by an operator"
    would = run("projection", "resume", "revenue", APP, "--dry-run", *JSON).result
    assert would["dry_run"]
    assert run("projection", "resume", "revenue", APP, "--accept", *YES, *JSON).result["count"] == 1
    assert run("projection", "status", "revenue", APP, *JSON).result["cause"] is None


def test_a_rebuild_compares_switches_and_is_undone(app: Any, run: Run) -> None:
    assert run("projection", "rebuild", "revenue", APP).code == 5
    assert run("projection", "rebuild", "revenue", APP, "--dry-run", *JSON).result["dry_run"]
    ran = run("projection", "rebuild", "revenue", APP, "--require-equal", *YES, *JSON)
    result = ran.fits("projection-rebuild").result
    assert (result["old"], result["new"], result["switched"]) == (1, 2, True)
    assert (result["rows"], result["verified"]["equal"]) == (3, 3)
    phases = [json.loads(each)["phase"] for each in ran.err.splitlines() if each[:1] == "{"]
    assert phases[:2] == ["plan", "replay"]
    back = run("projection", "rollback", "revenue", APP, *YES, *JSON).fits("projection-change")
    assert back.result["verb"] == "rollback"
    assert run("projection", "status", "revenue", APP, *JSON).result["version"] == 1


@pytest.mark.parametrize("command", ["rebuild", "assist"])
def test_the_collector_seldom_looks_at_the_rows_of_a_scan(
    app: Any, run: Run, often: tuple[int, int, int], command: str
) -> None:
    run("projection", "rebuild", "revenue", APP, "--dry-run")
    assert gc.get_threshold() == often
    asyncio.run(_cut_off_at_the_scan(app))
    run("projection", command, "revenue", APP, *YES)
    assert gc.get_threshold()[0] > 10 * often[0]


def test_who_assists_copies_what_is_left_of_a_scan(app: Any, run: Run) -> None:
    asyncio.run(_cut_off_at_the_scan(app))
    assisted = run("projection", "assist", "revenue", APP, *JSON).fits("projection-assist")
    assert assisted.result == {"name": "revenue", "rows": 3}
    ran = run("projection", "rebuild", "revenue", APP, "--resume", "--require-equal", *YES, *JSON)
    assert ran.result["switched"]
    first = next(json.loads(each) for each in ran.err.splitlines() if '"replay"' in each)
    assert first["done"] == first["total"]


async def _cut_off_at_the_scan(app: Any) -> None:
    def cut(beat: Beat) -> None:
        if beat.phase == "replay":
            raise RuntimeError

    async with app.bus.client() as bus:
        with suppress(RuntimeError):
            await bus.projections.rebuild("revenue", options=Options(parts=3), beat=cut)


async def _filled(ledger: Any) -> None:
    """Four orders, in a table that the app made."""
    async with ledger.bus as bus:
        async with bus.transaction() as tx:
            await tx.sql.execute("CREATE TABLE ledger (place INTEGER PRIMARY KEY, cents INTEGER)")
        for number in range(4):
            event = ledger.Ordered(order=str(number), cents=number)
            await bus.events.append(f"order-{number}", [event], expected="absent")
        await bus.until_idle()


def test_processes_share_a_scan(
    app: Any, run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(project), *sys.path]))
    flags = ("--processes", "2", "--shards", "4", "--require-equal")
    ran = run("projection", "rebuild", "revenue", APP, *flags, *YES, *JSON)
    assert ran.result["switched"]
    assert ran.result["rows"] == 3
    lines = [json.loads(each) for each in ran.err.splitlines() if each[:1] == "{"]
    told = [each["shards"] for each in lines if each["phase"] == "replay"]
    assert told
    for shards in told:
        assert [one["name"] for one in shards] == [f"{number}/4" for number in range(4)]
        assert {one["phase"] for one in shards} <= {"waiting", "replay", "done"}
        assert all(0 <= one["done"] <= one["total"] for one in shards)


def test_what_one_process_must_replay_is_replayed_by_one(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process is started that could but say that it has nothing to do."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(project), *sys.path]))
    (project / "ledger_app.py").write_text(LEDGER_APP, encoding="utf-8")
    asyncio.run(_filled(import_module("ledger_app")))
    ran = run("projection", "rebuild", "ledger", "ledger_app:bus", "--processes", "2", *YES, *JSON)
    assert ran.result["rows"] == 4
    assert "one process replays it: by_stream is not declared" in ran.err
    assert "EB6010" not in ran.err
    assert "a process that helped" not in ran.err


def test_who_assists_is_told_the_same_and_no_password_on_its_command_line() -> None:
    settings = Settings()
    settings.storage = "postgresql://shop:secret@db/shop"
    options = Options(since=Position(7), streams=("order-1",), page=9, rate=5.0)
    words = arguments(settings, "revenue", APP, options)
    assert words[1:5] == ["projection", "assist", "revenue", APP]
    told = dict(zip(words[5::2], words[6::2], strict=True))
    assert told == {"--from": "7", "--stream": "order-1", "--batch": "9", "--rate": "5.0"}
    assert not any("secret" in word for word in words)
    assert environment(settings)["EVENTBUS_STORAGE"] == settings.storage


def test_nothing_to_roll_back_to_is_refused(app: Any, run: Run) -> None:
    ran = run("projection", "rollback", "revenue", APP, *YES)
    assert ran.code == 5
    assert "EB6010" in ran.err


def test_other_rows_fail_a_check_and_may_be_switched_to(app: Any, run: Run) -> None:
    app.FACTOR = 2
    ran = run("projection", "rebuild", "revenue", APP, "--require-equal", *YES)
    assert ran.code == 1
    assert "EB6011" in ran.err
    text = run("projection", "rebuild", "revenue", APP, "--no-switch", "--from", "1")
    assert text.code == 0
    assert "v1 goes on serving" in text.out
    assert run("projection", "rebuild", "revenue", APP, "--resume", *YES).code == 5
    again = run("projection", "rebuild", "revenue", APP, "--resume", "--from", "1", *YES)
    assert "3 differ" in again.out
    assert "switched" in again.out
    sys.modules.pop("projection_app")


def test_what_is_neither_position_nor_time_is_a_usage_error(app: Any, run: Run) -> None:
    ran = run("projection", "rebuild", "revenue", APP, "--from", "yesterday")
    assert ran.code == 2
    assert "is neither" in ran.err


def test_the_bar_says_rate_and_time_left_after_a_while() -> None:
    beat = Beat("orders", 7, 8, "orders__v8", 4)
    beat.phase, beat.total, beat.done = "replay", 2_000_000, 1_220_431
    pace = Pace()
    pace.note("replay", 0, 0.0)
    pace.note("replay", 1_172_231, 21.0)
    assert pace.eta(beat.total) is not None
    pace.note("replay", 1_220_431, 22.0)
    text = line(beat, pace)
    assert "61 %  1,220,431 / 2,000,000   48.2k ev/s   ETA 0:16   parked 0" in text


def test_nobody_tells_a_time_before_it_is_known() -> None:
    pace = Pace()
    pace.note("replay", 0, 0.0)
    assert pace.eta(10) is None
    pace.note("replay", 5, 2.0)
    assert pace.eta(10) is None
    pace.note("replay", 8, 4.0)
    assert pace.eta(10) == pytest.approx(1.0)
