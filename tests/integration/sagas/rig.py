"""What tests of running sagas ask and do."""

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

from eventbus import Event, EventBus
from eventbus.bus import Shown


class Time(Protocol):
    async def move(self, seconds: float) -> None: ...


class Clock:
    """Moves the storage's time."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds

    async def move(self, seconds: float) -> None:
        self.seconds += seconds


class PostgresTime:
    """The server's clock stays: timers and calls come nearer."""

    def __init__(self, bus: EventBus, schema: str) -> None:
        self._bus = bus
        self._schema = schema

    async def move(self, seconds: float) -> None:
        async with self._bus.transaction() as tx:
            for table in ("saga_timer", "saga_call"):
                await tx.sql.execute(
                    f"UPDATE {self._schema}.{table}"
                    " SET due_at = due_at - make_interval(secs => $1) WHERE isfinite(due_at)",
                    seconds,
                )


class Rig:
    """A bus, and what became of its sagas."""

    def __init__(self, bus: EventBus, time: Time, prefix: str = "") -> None:
        self.bus = bus
        self._time = time
        self.prefix = prefix

    async def publish(self, *events: Event) -> None:
        """And let everything come to rest."""
        for event in events:
            await self.bus.publish(event)
        await self.bus.until_idle()

    async def pass_time(self, seconds: float) -> None:
        """Let timers fire."""
        await self._time.move(seconds)
        await self.bus.until_idle()

    async def rows(self, query: str, *values: object) -> Sequence[dict[str, Any]]:
        async with self.bus.transaction() as tx:
            return [dict(row) for row in await tx.sql.fetch(query, *values)]

    async def id_of(self, key: str, saga: str = "place-order") -> UUID:
        found = await self.bus.sagas.find(saga, key)
        assert found is not None
        return found.saga_id

    async def show(self, key: str, saga: str = "place-order") -> Shown:
        return await self.bus.sagas.show(await self.id_of(key, saga))

    async def status(self, key: str, saga: str = "place-order") -> str:
        return (await self.show(key, saga)).saga.status

    async def effects(self, table: str, key: str) -> list[str]:
        """Steps that took effect, or were undone, in order."""
        rows = await self.rows(
            f"SELECT step FROM {self.prefix}_{table} WHERE order_id = $1 ORDER BY number", key
        )
        return [row["step"] for row in rows]

    async def orders(self) -> list[str]:
        return [row["order_id"] for row in await self.rows("SELECT order_id FROM orders")]

    async def journal(self, key: str) -> list[str]:
        return [each.entry.input_kind for each in (await self.show(key)).journal]

    async def stashed(self) -> int:
        """Inputs that wait for their sagas."""
        (row,) = await self.rows(f"SELECT count(*) AS n FROM {self.table('saga_stash')}")
        return int(row["n"])

    def table(self, name: str) -> str:
        """Of the storage."""
        prefix = "eventbus_" if isinstance(self._time, Clock) else f"{self.prefix}."
        return f"{prefix}{name}"
