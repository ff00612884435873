"""A line of `eventbus doctor`, and the one about clocks."""

from time import time
from typing import TYPE_CHECKING, Any

from eventbus.errors import EventBusError

if TYPE_CHECKING:
    from eventbus.storage import Storage

Check = dict[str, Any]
SKEW_SECONDS = 5.0  # more than a synchronised machine ever is, and than a slow answer explains
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"


def check(name: str, status: str, what: str, next: str = "") -> Check:
    """One line."""
    return {"check": name, "status": status, "what": what, "next": next}


def failed(name: str, error: EventBusError) -> Check:
    """A check that ended with an error; its code leads to the page."""
    return check(name, "fail", f"{error.code} {error.what}: {error.why}", error.next)


async def seconds_ahead(storage: "Storage") -> float | None:
    """How far this machine's clock is ahead of the database's; None: they are one.

    What the answer took is halved, so a slow link is no skew.
    """
    from eventbus.postgres import PostgresStorage

    if not isinstance(storage, PostgresStorage):
        return None
    async with storage.transaction() as tx:
        await tx.sql.fetch(_NOW)  # the connection and BEGIN take their time before
        asked = time()
        rows = await tx.sql.fetch(_NOW)
        answered = time()
    return (asked + answered) / 2 - float(rows[0]["now"])


def clock(ahead: float) -> Check:
    """Leases, delays and retries go by the database's clock, so a skew breaks no promise.

    What this machine writes down by its own is off by as much: ids, times of events, logs; and an
    id of another day is recognised as a duplicate for that day's retention.
    """
    side = "ahead of" if ahead > 0 else "behind"
    what = f"this machine is {abs(ahead):.1f} s {side} the database"
    if abs(ahead) > SKEW_SECONDS:
        return check("clock", "warn", what, "synchronise the clocks: times in messages are wrong")
    return check("clock", "ok", what)
