"""Orders, once as a decider and once as an aggregate."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from eventbus import Event
from eventbus.sourcing import Aggregate, CommandHandler, applies


class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    cents: int


class LineAdded(Event, type="shop.line-added", key="order_id"):
    order_id: str
    product: str
    cents: int


class OrderShipped(Event, type="shop.order-shipped", key="order_id"):
    order_id: str


class OrderNoted(Event, type="shop.order-noted", key="order_id"):
    """Nothing that counts."""

    order_id: str


class RefusedError(Exception):
    """Of a command."""


@dataclass(frozen=True)
class Place:
    order_id: str
    cents: int


@dataclass(frozen=True)
class Add:
    order_id: str
    product: str
    cents: int


@dataclass(frozen=True)
class Ship:
    order_id: str


@dataclass(frozen=True)
class State:
    cents: int = 0
    products: tuple[str, ...] = field(default=())
    placed: bool = False
    shipped: bool = False


class OrderDecider:
    def initial(self) -> State:
        return State()

    def decide(self, command: Place | Add | Ship, state: State) -> Sequence[Event]:
        match command:
            case Place(order_id, cents):
                return [] if state.placed else [OrderPlaced(order_id=order_id, cents=cents)]
            case Add(order_id, product, cents):
                if state.shipped:
                    raise RefusedError(f"{order_id} is on its way")
                return [LineAdded(order_id=order_id, product=product, cents=cents)]
            case Ship(order_id):
                if not state.placed:
                    raise RefusedError(f"nobody has placed {order_id}")
                return [OrderShipped(order_id=order_id)]

    def evolve(self, state: State, event: Event) -> State:
        match event:
            case OrderPlaced(cents=cents):
                return replace(state, placed=True, cents=state.cents + cents)
            case LineAdded(product=product, cents=cents):
                more = (*state.products, product)
                return replace(state, products=more, cents=state.cents + cents)
            case OrderShipped():
                return replace(state, shipped=True)
            case _:
                return state


def order_of(command: Place | Add | Ship) -> str:
    return f"order-{command.order_id}"


handle_order = CommandHandler(OrderDecider(), stream=order_of)


class Order(Aggregate, stream="order", snapshot=5):
    placed = False
    shipped = False
    cents: int = 0
    products: dict[str, int] = {}  # noqa: RUF012 - each order begins with a copy

    def place(self, cents: int) -> None:
        if not self.placed:
            self.emit(OrderPlaced(order_id=self.id, cents=cents))

    def add(self, product: str, cents: int) -> None:
        if self.shipped:
            raise RefusedError(f"{self.id} is on its way")
        self.emit(LineAdded(order_id=self.id, product=product, cents=cents))

    def ship(self) -> None:
        self.emit(OrderShipped(order_id=self.id))

    @applies(OrderPlaced)
    def _placed(self, event: OrderPlaced) -> None:
        self.placed = True
        self.cents += event.cents

    @applies(LineAdded)
    def _added(self, event: LineAdded) -> None:
        self.products[event.product] = self.products.get(event.product, 0) + event.cents
        self.cents += event.cents

    @applies(OrderShipped)
    def _shipped(self, event: OrderShipped) -> None:
        self.shipped = True
