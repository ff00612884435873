"""What a group has done already (S4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from eventbus.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What `receive` found."""

    new: frozenset[UUID]
    held: frozenset[str]  # keys that are parked: queue up behind them


class Inbox(Protocol):
    """Identities of messages, recorded in the transaction of their effects."""

    async def receive(
        self, messages: Sequence[Message], *, keys: Sequence[str], group: str
    ) -> Received:
        """Record the identities of a batch; return the new ones, and which keys are held.

        Waits, up to the lock timeout, while another transaction receives one of these messages, so
        none
        runs twice at once. A key told as held stays held until this transaction ends. Called again
        in the
        same transaction, it finds nothing new.

        Args:
            messages: 1 to 1000; one given twice is recorded and returned once, and must run once.
            keys: what the group orders by, aligned with `messages`.
            group: whose effects are guarded; groups never see each other's messages.

        Raises:
            StorageError: nothing was recorded, the transaction cannot go on.

        Source: S4, B7; PostgreSQL manual, INSERT, "ON CONFLICT Clause".
        """
        ...

    async def look(
        self, messages: Sequence[Message], *, keys: Sequence[str], group: str
    ) -> Received:
        """Answer what `receive` would, and record nothing."""
        ...

    async def forget(self, messages: Sequence[Message], *, group: str) -> None:
        """Take back what was recorded and not run: an id without its effect is a lost message."""
        ...

    async def attempts(self, messages: Sequence[Message], *, group: str) -> Mapping[UUID, int]:
        """What `count` said last, and adds nothing; messages that were not counted are left out."""
        ...

    async def count(self, messages: Sequence[Message], *, group: str) -> Mapping[UUID, int]:
        """One more attempt for each, and the total; commit it, then handle (B7).

        It never falls, unless it is taken back.
        """
        ...

    async def uncount(self, messages: Sequence[Message], *, group: str) -> None:
        """Take one attempt back: its handler has ended, and said that it does not count."""
        ...
