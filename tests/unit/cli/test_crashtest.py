"""crashtest: what it prints, what it exits with, and that what it prints can be run again."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from eventbus.testing.crashtest import Point, Report, Trial, Violation, on_services
from eventbus.testing.crashtest.on_services import Process, Services

from .conftest import Run

JSON = ("-o", "json")
APP = """
from eventbus import Context, Event, EventBus, subscribe

class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str

mails = []

@subscribe(OrderPlaced, group="billing")
async def bill(event: OrderPlaced, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO bills (order_id) VALUES ($1)", event.order_id)

@subscribe(OrderPlaced, group="mail")
async def thank(event: OrderPlaced) -> None:
    mails.append(event.order_id)

bus = EventBus("memory://", storage="sqlite:///shop.db", service="shop", handlers=[bill])
careless = EventBus("memory://", handlers=[bill, thank])
foreign = EventBus("memory://", storage="sqlite://", handlers=[])
"""
SCENARIOS = """
from eventbus import EventBus, UnitOfWork
from eventbus.testing import invariant
from billing_app import OrderPlaced, mails

async def prepare(bus: EventBus) -> None:
    mails.clear()
    async with bus.transaction() as tx:
        await tx.sql.execute("CREATE TABLE bills (order_id text)")

async def place_order(bus: EventBus) -> None:
    await bus.publish(OrderPlaced(order_id="A-1"))

async def fail_at_once(bus: EventBus) -> None:
    await bus.publish("elsewhere.happened", {"at": 1 / 0})

@invariant
async def billed_once(tx: UnitOfWork) -> None:
    rows = await tx.sql.fetch("SELECT order_id, count(*) AS bills FROM bills GROUP BY order_id")
    assert all(row["bills"] == 1 for row in rows)

@invariant
async def thanked_once(tx: UnitOfWork) -> None:
    await tx.sql.fetch("SELECT order_id FROM bills")
    assert len(mails) <= 1, f"{len(mails)} mails"
"""
SCENARIO = "tests/scenarios.py:place_order"
ASK = ("crashtest", SCENARIO, "--points", "consumer.*")


@pytest.fixture(autouse=True)
def app(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "billing_app.py").write_text(APP, encoding="utf-8")
    (project / "tests").mkdir()
    (project / "tests" / "scenarios.py").write_text(SCENARIOS, encoding="utf-8")
    monkeypatch.setenv("EVENTBUS_APP", "billing_app:bus")


def test_handlers_that_keep_to_their_transaction_exit_with_0(run: Run, project: Path) -> None:
    ran = run(*ASK, *JSON).fits("crashtest")
    assert ran.code == 0
    told = ran.result
    assert (told["ok"], told["broken"], told["failing"], told["failure"]) == (True, 0, [], None)
    assert 10 < told["hit"] <= told["runs"] == len(told["points"])
    assert {each["result"] for each in told["points"]} <= {"held", "not reached"}
    assert not (project / "shop.db").exists()  # the app's own storage was not touched


def test_an_effect_outside_is_told_with_calls_rows_and_the_command_that_finds_it_again(
    run: Run,
) -> None:
    ran = run(*ASK, "--app", "billing_app:careless", "--seed", "3", *JSON).fits("crashtest")
    assert ran.code == 1
    assert "the app has no storage" in ran.err
    failure = ran.result["failure"]
    assert failure["kills"] == ["consumer:mail.savepoint/1/before"]
    assert failure["calls"][0][-1] == "consumer:mail.savepoint"
    (found,) = failure["violations"]
    assert (found["invariant"], found["rows"]) == ("thanked_once", [{"order_id": "A-1"}])
    command = shlex.split(failure["replay"])
    assert command[:2] == ["eventbus", "crashtest"]
    again = run(*command[1:], *JSON)
    assert again.code == 1
    assert again.result["runs"] == 1
    for part in ("kills", "violations", "replay"):
        assert again.result["failure"][part] == failure[part]


def test_for_a_person_it_is_a_table_and_the_shortest_failure(run: Run) -> None:
    ran = run(*ASK, "--app", "billing_app:careless")
    lines = ran.out.splitlines()
    assert lines[0].split() == ["CALL", "POINTS", "RUNS", "BROKEN", "NOT", "REACHED"]
    assert "the shortest failure: consumer:mail.savepoint/1/before" in lines
    told = [line for line in lines if "thanked_once: 2 mails (scenarios.py:" in line]
    assert len(told) == 1
    assert lines[-1] == (
        f"  again: eventbus crashtest {SCENARIO} --app billing_app:careless"
        " --points consumer:mail.savepoint/1/before"
    )


def test_a_second_crash_is_one_more_column_of_kills(run: Run) -> None:
    args = ("crashtest", SCENARIO, "--points", "consumer.commit", "--depth", "2")
    ran = run(*args, *JSON).fits("crashtest")
    assert ran.code == 0
    assert {len(each["kills"]) for each in ran.result["points"]} == {1, 2}


def test_a_broker_with_queues_is_a_matter_of_the_url(run: Run) -> None:
    ran = run(*ASK, "--transport", "memory://?style=queue", "--app", "billing_app:careless")
    assert ran.code == 1
    assert "--transport 'memory://?style=queue'" in ran.out.splitlines()[-1]


def test_no_point_hit_is_an_error(run: Run) -> None:
    ran = run("crashtest", SCENARIO, "--points", "projection.*")
    assert (ran.code, ran.err.splitlines()[0]) == (
        2,
        "EB8013 no crash point was hit: nothing was tested",
    )


def test_a_scenario_that_fails_by_itself_is_an_error(run: Run) -> None:
    ran = run("crashtest", "tests/scenarios.py:fail_at_once")
    assert ran.code == 2
    first, where, *_ = ran.err.splitlines()
    assert first == (
        "EB8014 the scenario fails without a crash: ZeroDivisionError: division by zero"
    )
    assert where.startswith("  where tests/scenarios.py:15 in fail_at_once")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["tests/scenarios.py:place_ordr"], "has no scenario 'place_ordr'"),
        (["tests/nothing.py:place_order"], "there is no scenario 'tests/nothing.py:place_order'"),
        (["tests/scenarios.py"], "there is no scenario 'tests/scenarios.py'"),
        ([SCENARIO, "--transport", "kafka://localhost"], "say --transport memory://"),
        ([SCENARIO, "--storage", "sqlite:///shop.db"], "say --storage sqlite://"),
    ],
)
def test_what_cannot_be_run_is_refused(run: Run, args: list[str], said: str) -> None:
    ran = run("crashtest", *args)
    assert ran.code == 2
    assert ran.err.startswith("EB8001 ")
    assert said in ran.err.splitlines()[0]


def test_a_scenario_is_answered_with_the_one_that_was_meant(run: Run) -> None:
    ran = run("crashtest", "tests/scenarios.py:place_ordr")
    assert ran.err.splitlines()[-1] == "  next  tests/scenarios.py:place_order"


def test_a_file_that_cannot_be_imported_names_its_line(run: Run, project: Path) -> None:
    (project / "broken_scenarios.py").write_text("x = 1\ny = x / 0\n", encoding="utf-8")
    ran = run("crashtest", "broken_scenarios.py:place_order")
    assert (ran.code, ran.err.splitlines()[1]) == (2, "  where broken_scenarios.py:2 in <module>")


def test_a_file_that_the_app_is_in_is_imported_once(run: Run, project: Path) -> None:
    text = APP + SCENARIOS.replace("from billing_app import OrderPlaced, mails\n", "")
    (project / "both.py").write_text(text, encoding="utf-8")
    ran = run("crashtest", "both.py:place_order", "--app", "both:bus", "--points", "consumer.ack")
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "memory:// dies with its process: name a broker for tests"),
        (("--storage", "sqlite:///shop.db"), "real crash tests run on PostgreSQL"),
    ],
)
def test_what_dies_with_its_process_is_not_tested_for_real(
    run: Run, flags: tuple[str, ...], said: str
) -> None:
    ran = run("crashtest", SCENARIO, "--real", *flags)
    assert ran.code == 2
    assert said in ran.err


KILL = Point("relay", "", "publish", 1, "after", ("relay.confirmed",))
BROKEN = Trial(
    kills=(KILL,),
    hit=True,
    calls=[["relay.publish"]],
    violations=[Violation("KEY_ORDER", "one overtook another")],
)


@pytest.mark.parametrize(
    ("transport", "again"),
    [
        ("kafka://127.0.0.1:9092", " --transport kafka://127.0.0.1:9092"),
        ("amqp://me:secret@127.0.0.1", ""),
    ],
)
def test_for_real_each_run_is_told_and_no_password_is(
    run: Run, monkeypatch: pytest.MonkeyPatch, transport: str, again: str
) -> None:
    async def explored(there: Services, process: Process, **asked: Any) -> Report:
        assert there.broker_url == transport
        assert (process.app, process.scenario) == ("billing_app:bus", SCENARIO)
        asked["told"](BROKEN)
        return Report(trials=[BROKEN])

    monkeypatch.setattr(on_services, "crashtest_on", explored)
    flags = ("--real", "--transport", transport, "--storage", "postgresql://127.0.0.1/x")
    ran = run("crashtest", SCENARIO, *flags)
    assert ran.code == 1
    assert "  relay.publish/1/after  broken" in ran.err.splitlines()
    assert ran.out.splitlines()[-1] == (
        f"  again: eventbus crashtest {SCENARIO} --app billing_app:bus --real{again}"
        " --points relay.publish/1/after"
    )


def test_for_real_a_process_that_fails_by_itself_is_an_error(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def explored(there: Services, process: Process, **asked: Any) -> Report:
        raise on_services.ProcessError("LookupError: no such order")

    monkeypatch.setattr(on_services, "crashtest_on", explored)
    flags = (
        "--real",
        "--transport",
        "kafka://127.0.0.1:9092",
        "--storage",
        "postgresql://127.0.0.1/x",
    )
    ran = run("crashtest", SCENARIO, *flags)
    assert (ran.code, ran.err.splitlines()[1]) == (
        2,
        "EB8014 a process fails by itself: LookupError: no such order",
    )
