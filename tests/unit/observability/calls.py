"""One call of one handler, as middleware sees it."""

from dataclasses import dataclass
from typing import Any, cast

from eventbus.event import Event
from eventbus.handler import Context, Invocation
from eventbus.message import Message

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


class Placed(Event, type="shop.order-placed"):
    pass


@dataclass(frozen=True)
class Handling:
    """The part of a Context that says what is handled: nothing here publishes or stores."""

    message: Message
    group: str = "billing"
    attempt: int = 3


async def bill(event: Placed) -> None:
    pass


def message(**headers: str) -> Message:
    return Message(
        id="m-1",
        type="shop.order-placed",
        source="/shop",
        topic="shop",
        payload=b"secret",
        key="A-1",
        headers=headers,
    )


def invocation(of: Message | None = None, what: Any = None) -> Invocation:
    handling = Handling(message() if of is None else of)
    return Invocation(bill, Placed() if what is None else what, cast("Context", handling))
