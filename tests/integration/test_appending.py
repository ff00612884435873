"""tx.append and ctx.append: recorded and published under the same ids, in one commit."""

from typing import Any

import pytest

from eventbus import Command, Context, Event, EventBus, Reply, subscribe
from eventbus.errors import (
    ConcurrencyError,
    NoTransactionError,
    StorageError,
    UnitOfWorkError,
    WiringError,
)
from eventbus.message import Message


class Placed(Event, type="appending.placed", key="order"):
    order: str


class Paid(Event, type="appending.paid", key="order"):
    order: str


class Charged(Reply, type="appending.charged"):
    pass


class Charge(Command[Charged], type="appending.charge", key="order"):
    order: str


async def test_events_are_recorded_and_published_under_the_same_ids() -> None:
    handled: list[Message] = []

    @subscribe(Placed, group="billing")
    async def bill(event: Placed, ctx: Context) -> None:
        handled.append(ctx.message)

    async with EventBus("memory://", storage="sqlite://", handlers=[bill]) as bus:
        async with bus.transaction() as tx:
            appended = await tx.append(
                "order-A", [Placed(order="A"), Placed(order="A")], expected="absent"
            )
            await tx.append("order-B", [Placed(order="B")], expected="absent", publish=False)
        await bus.until_idle()
        async with bus.transaction() as tx:
            recorded = await tx.storage.events.read_stream("order-A")
            silent = await tx.storage.events.read_stream("order-B")
    assert (appended.version, appended.repeated) == (2, False)
    assert [each.id for each in handled] == [each.message.id for each in recorded]
    assert [each.headers["correlationid"] for each in handled] == [
        each.message.headers["correlationid"] for each in recorded
    ]
    assert len(silent) == 1


async def test_what_a_handler_appends_has_its_message_as_cause() -> None:
    causes: list[Message] = []

    @subscribe(Placed, group="billing")
    async def bill(event: Placed, ctx: Context) -> None:
        causes.append(ctx.message)
        await ctx.append(f"bill-{event.order}", [Paid(order=event.order)], expected="absent")

    async with EventBus("memory://", storage="sqlite://", handlers=[bill]) as bus:
        await bus.publish(Placed(order="A"))
        await bus.until_idle()
        async with bus.transaction() as tx:
            (paid,) = await tx.storage.events.read_stream("bill-A")
    (cause,) = causes
    assert paid.message.headers["causationid"] == cause.id
    assert paid.message.headers["correlationid"] == cause.headers["correlationid"]


async def test_a_conflict_brings_the_events_and_the_unit_of_work_can_go_on() -> None:
    async with EventBus("memory://", storage="sqlite://") as bus:
        async with bus.transaction() as tx:
            await tx.append("order-A", [Placed(order="A")], expected="absent")
        async with bus.transaction() as tx:
            with pytest.raises(ConcurrencyError) as caught:
                await tx.append("order-A", [Placed(order="A2")], expected="absent")
            await tx.append("order-A", [Placed(order="A3")], expected=1)
            recorded = await tx.storage.events.read_stream("order-A")
    assert caught.value.version == 1
    assert list(caught.value.conflicting) == list(recorded[:1])
    assert [each.version for each in recorded] == [1, 2]


@pytest.mark.parametrize(
    ("what", "error", "code"),
    [
        ([Charge(order="A")], WiringError, "EB1204"),
        ([Placed(order="A"), "no event"], WiringError, "EB1204"),
        ([], StorageError, "EB5015"),
    ],
)
async def test_what_cannot_be_recorded_is_refused(
    what: list[Any], error: type[StorageError], code: str
) -> None:
    async with EventBus("memory://", storage="sqlite://") as bus:
        async with bus.transaction() as tx:
            with pytest.raises(error) as caught:
                await tx.append("order-A", what, expected="any")
        async with bus.transaction() as tx:
            assert list(await tx.storage.events.read_stream("order-A")) == []
        with pytest.raises(UnitOfWorkError) as late:
            await tx.append("order-A", [Placed(order="A")], expected="any")
    assert caught.value.code == code
    assert late.value.code == "EB4106"


async def test_without_a_storage_nothing_can_be_recorded() -> None:
    codes: list[str] = []

    @subscribe(Placed, group="billing")
    async def bill(event: Placed, ctx: Context) -> None:
        try:
            await ctx.append("order-A", [event], expected="any")
        except NoTransactionError as error:
            codes.append(error.code)

    async with EventBus("memory://", handlers=[bill]) as bus:
        await bus.publish(Placed(order="A"))
    assert codes == ["EB4105"]
