"""What is sent: texts that somebody may encode, an event with every attribute we write."""

from typing import Any

from eventbus import Event
from eventbus.message import Message

ODD = "Äther 100 % \u2603 %C3%84"  # percent-encoding is for HTTP alone: nobody may touch it


def odd_message(topic: str, number: int = 0) -> Message:
    """One whose id, source, key, attributes and body need care."""
    return Message(
        id=f"{ODD} {number}",
        type="shop.order-placed",
        source="/shöp/50%25",
        topic=topic,
        payload=f'{{"order":"{ODD}","number":{number}}}'.encode(),
        key=f"t1/{ODD}",
        headers={
            "time": "2026-01-02T03:04:05.678901Z",
            "datacontenttype": "application/json",
            "dataschema": "urn:eventbus:schema:shop.order-placed:2",
            "subject": ODD,
            "correlationid": "c-1",
            "tenant": "t1",
            "native:traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        },
    )


MOMENT_MS = 1767323045678  # of its `time`
ATTRIBUTES = {
    "specversion": "1.0",
    "id": f"{ODD} 0",
    "source": "/shöp/50%25",
    "type": "shop.order-placed",
    "partitionkey": f"t1/{ODD}",
    "time": "2026-01-02T03:04:05.678901Z",
    "dataschema": "urn:eventbus:schema:shop.order-placed:2",
    "subject": ODD,
    "correlationid": "c-1",
    "tenant": "t1",
}  # of odd_message, written down apart from any code that maps
UNDERSTOOD = {
    **ATTRIBUTES,
    "time": "2026-01-02T03:04:05.678901+00:00",
    "datacontenttype": "application/json",
}


class Placed(Event):
    """Handled by a bus of a test."""

    order: str
    number: int


def event_to_make(type: str, number: int) -> dict[str, Any]:
    """For the SDK of CloudEvents; `Placed` under that type."""
    return {
        "attributes": {
            "id": f"{ODD} {number}",
            "source": "/their/shöp",
            "type": type,
            "time": "2026-01-02T03:04:05.678901+00:00",
            "datacontenttype": "application/json",
            "partitionkey": ODD,
            "tenant": "t1",
        },
        "data": {"order": ODD, "number": number},
    }
