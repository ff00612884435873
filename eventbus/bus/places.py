"""What operators reach by the bus."""

from eventbus.codec import Registry
from eventbus.inspection import Inspection, Place
from eventbus.message import Message


class DeadLetters(Place):
    """`bus.dead_letters`: a place whose messages can be edited, under the eyes of the codec."""

    def __init__(self, inspection: Inspection, registry: Registry) -> None:
        super().__init__(inspection, "dead-letter")
        self._registry = registry

    async def edit(self, id: str, payload: bytes, *, actor: str, reason: str = "") -> int:
        """Replace the body of one dead letter; the old one is kept. 1, or 0 if there is none.

        Raises:
            CodecError: the new body would be quarantined again.
        """
        for row in await self.list(ids=(id,), limit=1):
            self._registry.validate(
                Message(
                    id=id,
                    type=row["type"],
                    source=row["source"],
                    topic=row["topic"],
                    payload=payload,
                    key=row["key"],
                    headers=row["headers"],
                )
            )
        return await self.change("edit", actor=actor, reason=reason, payload=payload, ids=(id,))
