"""Mistakes that both checkers refuse: one that becomes legal is an unused ignore, and fails."""

from eventbus import Context, Undone, UnitOfWork, handles, subscribe, undoes
from eventbus.sourcing import Aggregate, applies
from eventbus.testing import given
from tests.typing.user import (
    CardCharged,
    ChargeCard,
    OrderDecider,
    OrderPlaced,
    OrderShipped,
    RefundCard,
    billing,
    charge,
)


async def a_command_is_no_event(tx: UnitOfWork) -> None:
    await tx.publish(ChargeCard(order_id="1", cents=1))  # type: ignore[call-overload]


async def an_event_is_no_command(tx: UnitOfWork) -> None:
    await tx.send(OrderShipped(order_id="1"))  # type: ignore[arg-type]


@subscribe(OrderPlaced, group="x")  # type: ignore[arg-type]
async def another_event(event: OrderShipped, ctx: Context) -> None: ...


@handles(ChargeCard, group="x")  # type: ignore[arg-type]
async def another_reply(command: ChargeCard, ctx: Context) -> Undone:
    return Undone()


@undoes(charge, RefundCard)  # type: ignore[arg-type]
async def the_undo_of_another_reply(command: RefundCard, done: Undone, ctx: Context) -> None: ...


@undoes(charge, RefundCard)  # type: ignore[arg-type]
async def the_undo_of_another_command(
    command: ChargeCard, done: CardCharged, ctx: Context
) -> None: ...


@undoes(charge, OrderPlaced)  # type: ignore[type-var]
async def an_event_undoes_nothing(
    command: OrderPlaced, done: CardCharged, ctx: Context
) -> None: ...


def no_such_name() -> object:
    import eventbus

    return eventbus.Evnet  # type: ignore[attr-defined]


async def a_missing_data_argument(tx: UnitOfWork) -> None:
    await tx.publish("user.created")  # type: ignore[call-overload]


class Misapplied(Aggregate, stream="order"):
    @applies(OrderPlaced)  # type: ignore[arg-type]
    def shipped(self, event: OrderShipped) -> None: ...


def another_command() -> None:
    given(OrderDecider()).when(OrderShipped(order_id="1"))  # type: ignore[arg-type]


used = (CardCharged, billing)
