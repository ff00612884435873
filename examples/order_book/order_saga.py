"""An order as a saga: reserve, charge, wait for the evening, ship; or take back what was done.

Read it from top to bottom: it is the whole flow. Stock that has run out, a card that is declined
and an address that is nowhere turn it back, and so does the customer, until the day is over.
"""

from datetime import timedelta

from pydantic import BaseModel

from eventbus.saga import Saga, cancels_on, starts_on, step, wait_step
from examples.order_book.billing import CardCharged, ChargeCard, RefundCard
from examples.order_book.events import OrderCancelled, OrderPlaced, OrderReleased, Sale
from examples.order_book.shipping import Ship
from examples.order_book.stock import ReleaseStock, ReserveStock, StockReserved

PATIENCE = timedelta(days=30)  # a book that was laid aside goes on as if it had never been


class OrderState(BaseModel):
    """What the saga remembers of an order."""

    order_id: str
    sale: Sale


class FulfilOrder(Saga[OrderState], name="fulfil-order", step_timeout=PATIENCE):
    """Ends `completed`, with parcel and sale, or `compensated`, with neither."""

    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        """One saga for each order, however often it is told."""
        return OrderState(order_id=event.order_id, sale=event.sale)

    @step
    def reserve(self, s: OrderState) -> ReserveStock:
        """First the goods."""
        return ReserveStock(order_id=s.order_id, lines=s.sale.lines)

    @reserve.undo
    def release(self, s: OrderState, reply: StockReserved | None) -> ReleaseStock:
        """Back onto the shelves."""
        return ReleaseStock(order_id=s.order_id)

    @step
    def charge(self, s: OrderState) -> ChargeCard:
        """Then the money."""
        return ChargeCard(order_id=s.order_id, customer=s.sale.customer, amount=s.sale.amount)

    @charge.undo
    def refund(self, s: OrderState, reply: CardCharged | None) -> RefundCard:
        """Back onto the card."""
        return RefundCard(order_id=s.order_id, amount=s.sale.amount)

    @wait_step(OrderReleased, timeout=PATIENCE)
    def evening(self, s: OrderState, event: OrderReleased) -> None:
        """Until then the customer may cancel."""

    @cancels_on(OrderCancelled)
    def cancelled(self, s: OrderState, event: OrderCancelled) -> str:
        """Undoes in reverse what was done."""
        return "the customer cancelled"

    @step(pivot=True, on_unknown="resolve")
    def ship(self, s: OrderState) -> Ship:
        """From here on there is no way back."""
        return Ship(order_id=s.order_id, sale=s.sale)
