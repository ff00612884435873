"""What tests of running sagas ask and do."""

from collections.abc import Sequence
from typing import Any

from eventbus import Event, EventBus
from eventbus.bus.facade import EventBus as Bus


class Clock:
    """Moves the storage's time."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


class Rig:
    """A bus, asked by SQL."""

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self.bus: EventBus = bus
        self._clock = clock

    async def publish(self, *events: Event) -> None:
        """And let everything come to rest."""
        for event in events:
            await self.bus.publish(event)
        await self.bus.until_idle()

    async def pass_time(self, seconds: float) -> None:
        """Let timers fire; those of one saga in as many steps as they need."""
        self._clock.seconds += seconds
        await self.bus.until_idle()

    async def rows(self, query: str, *values: object) -> Sequence[dict[str, Any]]:
        async with self.bus.transaction() as tx:
            return [dict(row) for row in await tx.sql.fetch(query, *values)]

    async def status(self, key: str, saga: str = "place-order") -> str:
        (row,) = await self.rows(
            "SELECT status FROM eventbus_saga WHERE saga_type = $1 AND business_key = $2", saga, key
        )
        return str(row["status"])

    async def effects(self, table: str, key: str) -> list[str]:
        """Steps that took effect, or were undone, in order."""
        rows = await self.rows(
            f"SELECT step FROM {table} WHERE order_id = $1 ORDER BY rowid",
            key,
        )
        return [row["step"] for row in rows]

    async def journal(self, key: str) -> list[str]:
        rows = await self.rows(
            "SELECT input_kind FROM eventbus_saga_journal j JOIN eventbus_saga s USING (saga_id)"
            " WHERE s.business_key = $1 AND s.saga_type = 'place-order' ORDER BY j.version",
            key,
        )
        return [row["input_kind"] for row in rows]
