"""Messages that failed, with those that wait behind their key (B7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, Protocol

from eventbus.message import Message
from eventbus.storage.events import Position
from eventbus.storage.leases import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Of the last attempt; the eventbus-dead-* headers of a broker's dead letter say the same.

    `buried`, `discarded`: by an operator. With a delay it is a wish, which the redelivery of its
    group fulfils.
    """

    reason: Literal["failed", "exhausted", "rejected", "quarantined", "buried", "discarded"]
    code: str
    type: str
    text: str  # redacted, cleaned of NUL and lone surrogates, cut to 8 KiB
    fingerprint: str  # exception type and first application frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A message out of the flow, held with its key."""

    message: Message
    key: str  # message.key; own_key(message) if it has none, or the group has order="none"
    attempts: int
    delay: (
        timedelta | None
    )  # None with a failure: a dead letter; holds its key until redriven or discarded
    origin: str  # "kafka:shop/3/1042", "rabbit:billing"
    position: Position | None = None  # a projection's: the body is read from the log
    failure: Failure | None = None  # None: not tried yet, it only queues behind its key


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """How much a group has parked."""

    messages: int
    behind_key: int  # of the key with the most


class Parking(Protocol):
    """Keys that wait, and what waits for them, in order."""

    async def park(
        self, parked: Sequence[Parked], *, group: str, lease: Lease | None = None
    ) -> None:
        """Put messages at the end of their keys' queues; what is parked already keeps its place.

        Without a lease a lane parks: a key that is held keeps its state and due time. Under a lease
        the redelivery
        speaks for the key: a failure with a delay makes it due later, without one it is dead.

        Raises:
            LeaseLostError: the lease is stale; nothing was written.
        """
        ...

    async def keys(self, *, group: str, limit: int) -> frozenset[str]:
        """Keys held now: a hint that saves decoding, never the truth."""
        ...

    async def crowd(self, *, group: str, above: int) -> Crowd:
        """How much is parked; below `above` messages the keys are not looked at, and count 0."""
        ...

    async def due(self, lease: Lease, *, group: str, limit: int) -> Sequence[Parked]:
        """Free keys that are empty; then the heads that are due, and what queues behind them.

        Commit before one of them runs.
        """
        ...

    async def behind(
        self, lease: Lease, key: str, *, group: str, limit: int, closing: bool = False
    ) -> Sequence[Parked] | None:
        """What waits for a key, in order.

        `closing`: the first statement of its transaction; locks the key against lanes until the
        transaction ends.
        None: somebody is at work on the key, it is gone or dead: not now.
        """
        ...

    async def settle(self, lease: Lease, parked: Sequence[Parked], *, group: str) -> None:
        """Forget messages, by identity; free the key that `behind(closing=True)` locked, if empty.

        Raises:
            LeaseLostError: the lease is stale, or somebody settled one of them: roll back.
        """
        ...
