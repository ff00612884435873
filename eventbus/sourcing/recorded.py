"""An event of the log: what was recorded, and what it says, decoded when somebody asks."""

from collections.abc import Iterator, Sequence
from typing import Any

from eventbus.codec import Registry
from eventbus.event import Event
from eventbus.personal import Opening
from eventbus.storage import Transaction
from eventbus.storage.events import RecordedMessage


class Recorded:
    """One event with its place in a stream and in the log."""

    __slots__ = ("_event", "_opening", "_registry", "recorded")

    def __init__(
        self, recorded: RecordedMessage, registry: Registry, opening: Opening | None = None
    ) -> None:
        self.recorded: RecordedMessage = recorded
        self._registry = registry
        self._opening = opening
        self._event: Event | None = None

    @property
    def event(self) -> Event:
        """The event in its current version; decoded on first use, older ones through upcasters.

        Raises:
            CodecError: EB3103, its type was not handed to the bus; EB3101, EB3102.
        """
        event = self._event
        if event is None:
            event = self._event = self.decode()
        return event

    def decode(self) -> Event:
        """The same, and nothing is kept: who goes over a long log once has no use for it.

        A page of decoded events is more than a processor's cache holds, and each is looked at by
        the garbage collector (measured: decision 0031).

        Raises:
            CodecError: as `event`.
        """
        one, registry = self.recorded, self._registry
        event: Any = registry.current(one.type, one.schema_version, one.payload)
        if event is None:
            event = registry.decode(one.message, self._opening)
        decoded: Event = event
        return decoded

    @property
    def hidden(self) -> Sequence[str]:
        """Personal data that were read from it: nothing that is said of it may quote them."""
        return () if self._opening is None else self._opening.texts

    def __repr__(self) -> str:
        one = self.recorded
        return f"<{one.type} {one.stream}@{one.version} position {one.position}>"


async def read(
    found: Sequence[RecordedMessage], registry: Registry, tx: Transaction | None = None
) -> list[Recorded]:
    """Recorded messages as events; the keys of personal data are read once for all of them.

    Args:
        found: in any order.
        registry: the classes that reading knows.
        tx: that the caller holds.
    """
    if not _are_sealed(found, registry):
        return [Recorded(one, registry) for one in found]
    return list(await one_by_one(found, registry, tx))


async def one_by_one(
    found: Sequence[RecordedMessage], registry: Registry, tx: Transaction | None = None
) -> Iterator[Recorded]:
    """The same, and each is made when it is its turn: for who goes over a long log once."""
    if not _are_sealed(found, registry):
        return (Recorded(one, registry) for one in found)
    openings = await registry.openings([one.message for one in found], tx)
    return (Recorded(one, registry, opening) for one, opening in zip(found, openings, strict=True))


def _are_sealed(found: Sequence[RecordedMessage], registry: Registry) -> bool:
    personal = registry.personal
    return bool(personal) and any(one.type in personal for one in found)
