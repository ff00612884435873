"""Mistakes in sagas that both checkers refuse: one that becomes legal is an unused ignore."""

from eventbus.saga import (
    Actions,
    CallContext,
    Do,
    Process,
    Saga,
    State,
    call_step,
    initial,
    on,
    starts_on,
    step,
    undo,
)
from tests.typing.sagas import (
    OrderCancelled,
    OrderPlaced,
    OrderState,
    ReleaseStock,
    ReserveStock,
    ShipmentCreated,
    StockReserved,
)


class Wrong(Saga[OrderState], name="wrong"):
    @step
    def reserve(self, s: OrderState) -> ReserveStock:
        return ReserveStock(order_id=s.order_id, sku=s.sku)

    @reserve.reply  # type: ignore[arg-type]
    def another_reply(self, s: OrderState, reply: ShipmentCreated) -> None: ...

    @reserve.undo  # type: ignore[arg-type]
    def an_undo_that_does_not_take_none(self, s: OrderState, reply: StockReserved) -> ReleaseStock:
        return ReleaseStock(order_id=s.order_id)

    @starts_on(OrderPlaced)  # type: ignore[arg-type]
    def another_event(self, event: OrderCancelled) -> OrderState:
        return OrderState(order_id=event.order_id, sku="")

    @call_step
    async def ask(self, s: OrderState, call: CallContext) -> StockReserved:
        return StockReserved(reservation_id="")

    @ask.undo  # type: ignore[arg-type]
    async def another_undo_that_does_not_take_none(
        self, s: OrderState, reply: StockReserved, call: CallContext
    ) -> None: ...


def another_state(s: ReleaseStock) -> object:
    return Wrong().reserve(s)  # type: ignore[arg-type]


class WrongProcess(Process[OrderState], name="wrong-process"):
    reserving = State()

    @on(OrderPlaced, when=initial, to=reserving)  # type: ignore[arg-type]
    def another_event(self, s: OrderState, event: OrderCancelled) -> Actions:
        command = ReserveStock(order_id=s.order_id, sku=s.sku)
        yield Do("reserve", command, undo=self.another_reply)  # type: ignore[arg-type]
        yield event  # type: ignore[misc]

    @undo
    def another_reply(self, s: OrderState, reply: ShipmentCreated | None) -> ReleaseStock:
        return ReleaseStock(order_id=s.order_id)

    @undo  # type: ignore[type-var]
    def an_undo_that_does_not_take_none(self, s: OrderState, reply: StockReserved) -> ReleaseStock:
        return ReleaseStock(order_id=s.order_id)


class Nameless(Saga[OrderState]): ...  # type: ignore[call-arg]
