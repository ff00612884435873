"""An event of the log: what was recorded, and what it says, decoded when somebody asks."""

from typing import cast

from eventbus.codec import Registry
from eventbus.event import Event
from eventbus.storage.events import RecordedMessage


class Recorded:
    """One event with its place in a stream and in the log."""

    def __init__(self, recorded: RecordedMessage, registry: Registry) -> None:
        self.recorded: RecordedMessage = recorded
        self._registry = registry
        self._event: Event | None = None

    @property
    def event(self) -> Event:
        """The event in its current version; decoded on first use, older ones through upcasters.

        Raises:
            CodecError: EB3103, its type was not handed to the bus; EB3101, EB3102.
        """
        if self._event is None:
            self._event = cast("Event", self._registry.decode(self.recorded.message))
        return self._event

    def __repr__(self) -> str:
        one = self.recorded
        return f"<{one.message.type} {one.stream}@{one.version} position {one.position}>"
