"""The crash-point explorer on small applications: what it finds, and what it lets pass."""

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from eventbus import (
    Context,
    Event,
    EventBus,
    Group,
    Reply,
    RetryPolicy,
    subscribe,
)
from eventbus import UnitOfWork as Tx
from eventbus.saga import CallContext, Saga, call_step, starts_on
from eventbus.sqlite import SqliteStorage
from eventbus.testing import invariant
from eventbus.testing.crashtest import Report, Violation, crashtest, life
from eventbus.testing.crashtest.ledger import Ledger
from eventbus.testing.crashtest.tables import ON_SQLITE

HANDLED = "consumer:billing.savepoint"
COMMITTED = "consumer:billing.commit"
AROUND = (HANDLED, COMMITTED, "consumer:billing.ack")


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str


class OrderBilled(Event, type="billing.order-billed", key="order_id"):
    order_id: str


async def by_sql(event: OrderPlaced, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO bills (order_id) VALUES ($1)", event.order_id)
    await ctx.publish(OrderBilled(order_id=event.order_id))


def shop(
    handler: Callable[[OrderPlaced, Context], Awaitable[None]] = by_sql, **options: Any
) -> EventBus:
    group = Group("billing", retry=RetryPolicy(in_place=0), **options)

    @subscribe(OrderPlaced, group=group)
    async def bill(event: OrderPlaced, ctx: Context) -> None:
        await handler(event, ctx)

    return EventBus("memory://", storage="sqlite:///not-this.db", handlers=[bill])


async def tables(bus: EventBus) -> None:
    async with bus.transaction() as tx:
        await tx.sql.execute("CREATE TABLE bills (order_id text)")


async def place_order(bus: EventBus) -> None:
    await bus.publish(OrderPlaced(order_id="A-1"))


@invariant
async def billed_once(tx: Tx) -> None:
    rows = await tx.sql.fetch("SELECT order_id, count(*) AS bills FROM bills GROUP BY order_id")
    assert all(row["bills"] == 1 for row in rows)


async def explored(bus: EventBus, **options: Any) -> Report:
    given = {"prepare": tables, "invariants": [billed_once], **options}
    return await crashtest(bus, place_order, **given)


def broken(report: Report) -> set[str]:
    return {each.invariant for trial in report.trials for each in trial.violations}


async def test_a_handler_that_keeps_to_its_transaction_survives_every_point() -> None:
    report = await explored(shop(), points=["*"])
    report.assert_holds()
    assert {trial.outcome for trial in report.trials} <= {"held", "not reached"}
    named = {name for trial in report.trials for kill in trial.kills for name in kill.names}
    assert {
        *("publish.written", "publish.commit_sent", "relay.sent", "relay.confirmed"),
        *("consumer.received", "consumer.handled", "consumer.commit_sent", "consumer.acked"),
    } <= named
    assert report.hit > 50


async def test_an_effect_in_a_list_is_found_at_the_shortest_way() -> None:
    bills: list[str] = []

    async def in_a_list(event: OrderPlaced, ctx: Context) -> None:
        bills.append(event.order_id)

    async def empty(bus: EventBus) -> None:
        bills.clear()

    async def in_the_list_once(tx: Tx) -> None:
        assert len(bills) <= 1, f"{len(bills)} bills"

    report = await explored(
        shop(in_a_list), prepare=empty, invariants=[in_the_list_once], points=AROUND
    )
    assert report.failure is not None
    assert str(report.failure) == "consumer:billing.savepoint/1/before"
    assert report.failure.calls[0][-1] == "consumer:billing.savepoint"
    assert report.failure.violations[0].what.startswith("2 bills (test_crashtest.py:")
    with pytest.raises(AssertionError, match="savepoint/1/before: in_the_list_once: 2 bills"):
        report.assert_holds()


async def test_an_effect_in_a_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "bills.txt"

    async def in_a_file(event: OrderPlaced, ctx: Context) -> None:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f"{event.order_id}\n")

    async def empty(bus: EventBus) -> None:
        file.write_text("", encoding="utf-8")

    async def in_the_file_once(tx: Tx) -> None:
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 1

    bus = shop(in_a_file)
    report = await explored(bus, prepare=empty, invariants=[in_the_file_once], points=AROUND)
    assert broken(report) == {"in_the_file_once"}


async def test_an_effect_by_another_connection_is_found_with_its_rows(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.db", isolation_level=None)
    other.execute("CREATE TABLE bills (order_id text)")

    async def elsewhere(event: OrderPlaced, ctx: Context) -> None:
        other.execute("INSERT INTO bills VALUES (?)", (event.order_id,))

    async def empty(bus: EventBus) -> None:
        await tables(bus)
        other.execute("DELETE FROM bills")

    async def elsewhere_once(tx: Tx) -> None:
        (count,) = other.execute("SELECT count(*) FROM bills").fetchone()
        await tx.sql.execute("INSERT INTO bills (order_id) VALUES ($1)", f"{count} bills")
        await tx.sql.fetch("SELECT order_id FROM bills")
        assert count <= 1

    bus = shop(elsewhere)
    report = await explored(bus, prepare=empty, invariants=[elsewhere_once], points=AROUND)
    other.close()
    assert report.failure is not None
    assert [each.invariant for each in report.failure.violations] == ["elsewhere_once"]
    assert report.failure.violations[0].rows == [{"order_id": "2 bills"}]


async def test_a_message_that_only_fails_after_a_crash_is_found_without_an_invariant(
    tmp_path: Path,
) -> None:
    file = tmp_path / "A-1"

    async def exclusively(event: OrderPlaced, ctx: Context) -> None:
        file.touch(exist_ok=False)

    async def empty(bus: EventBus) -> None:
        file.unlink(missing_ok=True)

    report = await explored(shop(exclusively), prepare=empty, invariants=[], points=[COMMITTED])
    assert report.failure is not None
    (found,) = report.failure.violations
    assert found.invariant == "NOTHING_GIVEN_UP"
    assert "FileExistsError" in found.rows[0]["error"]


async def test_what_fails_in_any_case_is_told_and_is_no_failure_of_a_crash() -> None:
    async def never(event: OrderPlaced, ctx: Context) -> None:
        raise ValueError("no")

    report = await explored(shop(never), points=["consumer:billing.commit/1/*"])
    report.assert_holds()
    assert report.failing == ["billing: shop.order-placed A-1: ValueError: no"]


async def test_a_retry_that_is_due_later_comes_to_pass() -> None:
    async def at_the_second_try(event: OrderPlaced, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ConnectionError
        await by_sql(event, ctx)

    report = await explored(shop(at_the_second_try), points=["redelivery.claimed", "*.commit/1/*"])
    report.assert_holds()
    assert any("redelivery.claimed" in kill.names for t in report.trials for kill in t.kills)


async def test_a_second_crash_hits_the_recovery_from_the_first() -> None:
    report = await explored(shop(), points=[COMMITTED], depth=2)
    report.assert_holds()
    deep = [str(trial) for trial in report.trials if len(trial.kills) == 2]
    assert f"{COMMITTED}/1/before>{COMMITTED}/1/after" in deep
    again = await explored(shop(), points=[deep[0]])
    assert [str(trial) for trial in again.trials if trial.kills] == [
        deep[0].partition(">")[0],
        deep[0],
    ]


async def test_a_scenario_that_was_cut_off_is_not_run_again() -> None:
    async def two(bus: EventBus) -> None:
        await bus.publish(OrderPlaced(order_id="A-1"))
        await bus.publish(OrderPlaced(order_id="B-2"))

    counts: set[int] = set()

    async def count(tx: Tx) -> None:
        counts.add(len(await tx.sql.fetch("SELECT order_id FROM bills")))

    points = ["publish.written", "publish.commit_sent"]
    report = await crashtest(shop(), two, prepare=tables, invariants=[count], points=points)
    report.assert_holds()
    assert counts == {0, 1, 2}


async def test_the_dead_reach_the_database_no_more() -> None:
    reached: list[str] = []

    async def stubborn(event: OrderPlaced, ctx: Context) -> None:
        try:
            await by_sql(event, ctx)
        finally:
            await ctx.sql.fetch("SELECT 1 AS one")
            reached.append(event.order_id)

    async def empty(bus: EventBus) -> None:
        await tables(bus)
        reached.clear()

    async def reached_once(tx: Tx) -> None:
        assert len(reached) <= 1

    points = ["consumer:billing.sql.execute", "consumer:billing.outbox.add"]
    report = await explored(shop(stubborn), prepare=empty, invariants=[reached_once], points=points)
    report.assert_holds()
    assert report.hit >= 2


async def test_a_group_without_a_transaction_may_repeat() -> None:
    async def outside(event: OrderPlaced, ctx: Context) -> None:
        pass

    report = await explored(shop(outside, transactional=False), points=["consumer.outside"])
    report.assert_holds()
    assert report.hit


async def test_no_point_is_no_proof() -> None:
    report = await explored(shop(), points=["projection.*"])
    assert report.hit == 0
    with pytest.raises(AssertionError, match="nothing was tested"):
        report.assert_holds()


async def test_what_is_broken_without_a_crash_is_said_at_once() -> None:
    async def never(tx: Tx) -> None:
        raise LookupError("nothing is right")

    report = await explored(shop(), invariants=[never])
    (trial,) = report.trials
    assert str(trial) == "without a crash"
    assert trial.violations[0].what.startswith("LookupError: nothing is right (test_crashtest")


async def test_a_scenario_that_waits_for_ever_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait(bus: EventBus) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(life, "AT_MOST", timedelta(milliseconds=50))
    report = await crashtest(shop(), wait, prepare=tables, invariants=[billed_once])
    assert report.failure is not None
    (violation,) = report.failure.violations
    assert (violation.invariant, violation.what) == ("PROGRESS", "the scenario does not end")


async def test_a_time_out_of_the_scenario_is_its_own() -> None:
    async def give_up(bus: EventBus) -> None:
        raise TimeoutError("nobody answered")

    with pytest.raises(TimeoutError, match="nobody answered"):
        await crashtest(shop(), give_up, prepare=tables, invariants=[billed_once])


async def test_the_callers_own_chance_goes_on_as_if_nothing_was() -> None:
    random.seed(11)
    expected = random.random()
    random.seed(11)
    await explored(shop(), points=["consumer.commit"])
    assert random.random() == expected


async def test_one_seed_passes_the_same_points_each_time() -> None:
    reports = [await explored(shop(), points=["consumer:billing.*"], seed=7) for _ in range(2)]
    first, second = ([str(trial) for trial in report.trials] for report in reports)
    assert first == second


class Paid(Reply, type="cards.paid"):
    pass


class RefusedError(Exception):
    pass


class State(BaseModel):
    order_id: str


def with_a_call(*, idempotent: bool) -> tuple[EventBus, Callable[[EventBus], Awaitable[None]]]:
    """A saga with a call to the outside, which may come again under the same effect id."""
    paid: set[str] = set()

    class Order(Saga[State], name="order", step_timeout=timedelta(minutes=10)):
        @starts_on(OrderPlaced)
        def begin(self, event: OrderPlaced) -> State:
            return State(order_id=event.order_id)

        @call_step(no_undo="free", rejects=(RefusedError,))
        async def pay(self, s: State, call: CallContext) -> Paid:
            if s.order_id in paid and not idempotent:
                raise RefusedError
            paid.add(s.order_id)
            return Paid()

    async def empty(bus: EventBus) -> None:
        paid.clear()

    bus = EventBus("memory://", storage="sqlite://", service="shop", handlers=[Order])
    return bus, empty


@pytest.mark.parametrize(("idempotent", "found"), [(True, set[str]()), (False, {"LEDGER"})])
async def test_a_saga_that_ends_otherwise_after_a_crash_is_found(
    idempotent: bool, found: set[str]
) -> None:
    bus, empty = with_a_call(idempotent=idempotent)
    report = await explored(
        bus, prepare=empty, invariants=[], points=["saga.call_claimed", "saga.call_done"]
    )
    assert report.hit >= 2
    assert broken(report) == found


async def judged(*statements: str) -> list[Violation]:
    """What the ledger says of effects that no framework would leave behind."""
    told = await shop().replace(transport="memory://", storage="sqlite://").describe()
    storage = SqliteStorage()
    async with storage, storage.transaction() as tx:
        for statement in (*ON_SQLITE, *statements):
            await tx.sql.execute(statement)
        found = await Ledger(told).judge(tx.sql, dry=None, cut=False)
    storage.close()
    return found


def sent(n: int) -> str:
    return (
        "INSERT INTO crashtest_sent (place, id, source, type, topic, key)"
        f" VALUES ({n}, '{id_of(n)}', '/s', 'shop.order-placed', 'shop', 'A')"
    )


def effect(n: int) -> str:
    return (
        "INSERT INTO crashtest_effects (grp, handler, identity, id, source, type)"
        f" VALUES ('billing', 'bill', '{id_of(n)}', '{id_of(n)}', '/s', 'shop.order-placed')"
    )


def inbox(n: int) -> str:
    return f"INSERT INTO eventbus_inbox VALUES ('billing', '{id_of(n)}', 0)"


def id_of(n: int) -> str:
    return f"01a21ce5-7f2d-72d2-9085-56632600000{n}"


async def test_effects_that_are_right_are_found_right() -> None:
    assert await judged(sent(1), inbox(1), effect(1), sent(2), inbox(2), effect(2)) == []


async def test_an_effect_twice_is_found() -> None:
    (found,) = await judged(sent(1), inbox(1), effect(1), effect(1))
    assert (found.invariant, found.rows[0]["effects"]) == ("NO_DUPLICATE_EFFECT", 2)


async def test_one_that_overtook_another_of_its_key_is_found() -> None:
    (found,) = await judged(sent(1), sent(2), inbox(1), inbox(2), effect(2), effect(1))
    assert (found.invariant, [row["place"] for row in found.rows]) == ("KEY_ORDER", [1])


async def test_an_effect_without_its_inbox_row_is_found() -> None:
    found = await judged(sent(1), effect(1))
    assert [each.invariant for each in found] == ["NOTHING_LOST", "ATOMIC"]
