"""The shop on a broker: each service is a bus of its own, in a process of its own.

`python -m examples.order_book --transport URL --storage URL` starts all of them; by hand it is
`eventbus run examples.order_book.services:stock_service`, and for the sagas
`eventbus saga worker examples.order_book.services:saga_service`. Where they run is told by
EVENTBUS_TRANSPORT and EVENTBUS_STORAGE.
"""

from types import ModuleType

from eventbus import EventBus
from examples.order_book import billing, order_saga, read_models, shipping, stock


def service(name: str, module: ModuleType) -> EventBus:
    """It handles what its module says, and knows nothing of the other services' code."""
    return EventBus("memory://", storage="sqlite://", service=name, handlers=[module])


stock_service = service("stock", stock)
billing_service = service("billing", billing)
shipping_service = service("shipping", shipping)
saga_service = service("order-sagas", order_saga)
read_model_service = service("read-models", read_models)

HERE = "examples.order_book.services"
COMMANDS = {
    "stock": ("run", f"{HERE}:stock_service"),
    "billing": ("run", f"{HERE}:billing_service"),
    "shipping": ("run", f"{HERE}:shipping_service"),
    "sagas": ("saga", "worker", f"{HERE}:saga_service"),
    "read models": ("run", f"{HERE}:read_model_service"),
}
"""Arguments of `eventbus`, by service; orders are read by the process that starts them."""
