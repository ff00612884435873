"""`crashtest --real`: processes that are killed, on a real broker and a real database."""

import os
import sys
from pathlib import Path

import asyncpg
import pytest

from eventbus import Event, EventBus, subscribe
from eventbus.message import identity_of
from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.testing.crashtest import on_services
from eventbus.testing.crashtest.ledger import Ledger
from eventbus.testing.crashtest.life import Orders
from eventbus.testing.crashtest.on_services import (
    Broker,
    OnServices,
    Process,
    ProcessError,
    Services,
    crashtest_on,
)
from eventbus.testing.crashtest.tables import ON_POSTGRES

APP = """
from pathlib import Path

from eventbus import Context, Event, EventBus, subscribe

class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str

class OrderBilled(Event, type="billing.order-billed", key="order_id"):
    order_id: str

MAILS = Path("mails.txt")

@subscribe(OrderPlaced, group="billing")
async def bill(event: OrderPlaced, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO bills (order_id) VALUES ($1)", event.order_id)
    await ctx.publish(OrderBilled(order_id=event.order_id))

@subscribe(OrderPlaced, group="mail")
async def thank(event: OrderPlaced) -> None:
    with MAILS.open("a") as file:
        file.write("thank you ")

good = EventBus("memory://", storage="sqlite://", service="shop", handlers=[bill])
careless = EventBus("memory://", storage="sqlite://", service="shop", handlers=[bill, thank])
"""
SCENARIOS = """
import threading

from eventbus import EventBus, UnitOfWork
from eventbus.testing import invariant

from real_shop import MAILS, OrderPlaced

async def prepare(bus: EventBus) -> None:
    MAILS.unlink(missing_ok=True)
    async with bus.transaction() as tx:
        await tx.sql.execute("CREATE TABLE bills (order_id text)")

async def place_order(bus: EventBus) -> None:
    await bus.publish(OrderPlaced(order_id="A-1"))

async def fail(bus: EventBus) -> None:
    raise LookupError("no such order")

async def block(bus: EventBus) -> None:
    threading.Event().wait()

@invariant
async def billed_once(tx: UnitOfWork) -> None:
    rows = await tx.sql.fetch("SELECT order_id, count(*) AS bills FROM bills GROUP BY order_id")
    assert all(row["bills"] == 1 for row in rows)

@invariant
async def thanked_once(tx: UnitOfWork) -> None:
    assert not MAILS.exists() or MAILS.read_text().count("thank") <= 1
"""


@pytest.fixture(params=["kafka", "rabbit"])
def there(request: pytest.FixtureRequest, postgres_url: str) -> Services:
    broker: Broker = request.param
    url = request.getfixturevalue(f"{broker}_url")
    return Services(broker=broker, broker_url=url, postgres_url=postgres_url)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real_shop.py").write_text(APP, encoding="utf-8")
    (tmp_path / "real_scenarios.py").write_text(SCENARIOS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def process(app: str, scenario: str = "place_order") -> Process:
    return Process(
        command=(sys.executable, "-m", "eventbus.cli.crashtest_process"),
        environment=dict(os.environ),
        app=f"real_shop:{app}",
        scenario=f"real_scenarios.py:{scenario}",
    )


async def test_what_keeps_to_its_transaction_outlives_a_process_that_is_killed(
    there: Services,
) -> None:
    points = ["publish.commit_sent", "relay.confirmed", "consumer.commit_sent"]
    told: list[str] = []
    report = await crashtest_on(
        there, process("good"), points=points, told=lambda trial: told.append(trial.outcome)
    )
    report.assert_holds()
    assert report.hit >= 3
    assert told == [trial.outcome for trial in report.trials]
    named = {name for trial in report.trials for kill in trial.kills for name in kill.names}
    assert set(points) <= named
    assert all(trial.calls[0] for trial in report.trials if trial.hit and trial.kills)


async def test_what_does_not_is_found(there: Services) -> None:
    handled = "consumer:mail.savepoint/1/after"
    report = await crashtest_on(there, process("careless"), points=[handled])
    assert report.failure is not None
    assert str(report.failure) == handled
    (found,) = report.failure.violations
    assert found.invariant == "thanked_once"


async def test_a_second_process_may_die_as_well(there: Services) -> None:
    kills = "relay.confirmed>consumer.commit_sent"
    report = await crashtest_on(there, process("good"), points=[kills])
    report.assert_holds()
    assert {len(trial.kills) for trial in report.trials if trial.hit} >= {0, 1, 2}


async def test_a_process_that_fails_by_itself_says_why(there: Services) -> None:
    with pytest.raises(ProcessError, match=r"LookupError: no such order \(real_scenarios\.py:"):
        await crashtest_on(there, process("good", "fail"))


async def test_a_process_that_never_ends_is_ended(
    there: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_services, "LONGEST_SECONDS", 8.0)
    report = await crashtest_on(there, process("good", "block"))
    (trial,) = report.trials
    (found,) = trial.violations
    assert (found.invariant, found.what) == ("PROGRESS", "the process does not end")


async def test_what_was_made_for_a_trial_is_gone_after_it(there: Services, tmp_path: Path) -> None:
    world = OnServices(there, process("good"), tmp_path / "answer.json")
    await world.prepare()
    letter = world._letter(Orders())
    admin = await asyncpg.connect(there.postgres_url)
    name = letter.storage.rpartition("/")[2]
    known = "SELECT count(*) FROM pg_database WHERE datname = $1"
    try:
        assert await admin.fetchval(known, name) == 1
        await world.close()
        assert await admin.fetchval(known, name) == 0
    finally:
        admin.terminate()


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str


@subscribe(OrderPlaced, group="billing")
async def bill(event: OrderPlaced) -> None: ...


def sent(number: int) -> str:
    """It was in the outbox, and is not any more: a relay took it."""
    return (
        "INSERT INTO eventbus.outbox"
        " (part, message_id, type, source, topic, key, headers, payload)"
        f" VALUES (0, '{number}', 'shop.order-placed', '/s', 'shop', 'A', '', '')"
    )


def effect(number: int) -> str:
    identity = identity_of("/s", str(number))
    return (
        "INSERT INTO crashtest_effects (grp, handler, identity, id, source, type)"
        f" VALUES ('billing', 'bill', '{identity}', '{number}', '/s', 'shop.order-placed')"
    )


def inbox(number: int) -> str:
    return (
        "INSERT INTO eventbus.inbox (group_name, message, day)"
        f" VALUES ('billing', '{identity_of('/s', str(number))}', current_date)"
    )


@pytest.mark.parametrize(
    ("statements", "broken"),
    [
        ((sent(1), inbox(1), effect(1), sent(2), inbox(2), effect(2)), []),
        ((sent(1), inbox(1), effect(1), effect(1)), ["NO_DUPLICATE_EFFECT"]),
        ((sent(1), sent(2), inbox(1), inbox(2), effect(2), effect(1)), ["KEY_ORDER"]),
        ((sent(1), effect(1)), ["NOTHING_LOST", "ATOMIC"]),
        ((sent(1),), ["NOTHING_LOST"]),
    ],
)
async def test_the_ledger_says_the_same_on_postgresql(
    postgres_url: str, statements: tuple[str, ...], broken: list[str]
) -> None:
    storage = PostgresStorage(PostgresConfig(dsn=postgres_url, service="shop"))
    app = EventBus("memory://", storage=storage, service="shop", handlers=[bill])
    await app.upgrade()
    async with app.client() as bus, bus.transaction() as tx:
        for statement in (*ON_POSTGRES, *statements, "DELETE FROM eventbus.outbox"):
            await tx.sql.execute(statement)
        found = await (await Ledger.of(app)).judge(tx.sql, dry=None, cut=False)
    assert [each.invariant for each in found] == broken
