"""What happens in the shop."""

from eventbus import Event


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    """A customer ordered, and was told so."""

    order_id: str
    cents: int
