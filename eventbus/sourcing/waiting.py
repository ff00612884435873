"""Reading what one has written: until a position of the log is in the rows of a projection."""

import asyncio
from contextlib import suppress
from datetime import timedelta

from eventbus.codec import Registry
from eventbus.errors import CodecError, ProjectionError
from eventbus.sourcing.arrivals import Arrivals
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.parking import row_key, stream_key
from eventbus.sourcing.read_model import key_text
from eventbus.sourcing.recorded import Recorded, read
from eventbus.sourcing.standing import Standing, held_of
from eventbus.storage import Storage, Transaction
from eventbus.storage.events import Position

SHORTEST_SECONDS, LONGEST_SECONDS = 0.005, 0.05


class Waiting:
    """Asks the database where a projection stands: seldom, and when this process wrote its rows.

    Args:
        storage: entered.
        definition: the projection.
        registry: decodes what is recorded.
        arrivals: of this process.
    """

    def __init__(
        self, storage: Storage, definition: Definition, registry: Registry, arrivals: Arrivals
    ) -> None:
        self._storage = storage
        self._definition = definition
        self._registry = registry
        self._arrivals = arrivals

    async def until(self, position: Position) -> None:
        """Return once what was recorded there is in the rows.

        Raises:
            ProjectionError: EB6006, its row or stream is parked.
        """
        seconds = SHORTEST_SECONDS
        with self._arrivals.expected(self._definition.name, position) as here:
            while not await self._reached(position):
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await here.wait()
                here.clear()
                seconds = min(seconds * 2, LONGEST_SECONDS)

    async def _reached(self, position: Position) -> bool:
        async with self._storage.transaction() as tx:
            versions = await tx.projections.versions(self._definition.name)
            active = next((one for one in versions if one.status == "active"), None)
            if active is None:
                return False
            positions = await tx.checkpoints.positions(f"{active.name}@{active.version}/")
            if len(positions) < active.shards or min(positions.values()) < position:
                return False
            held = await held_of(tx, active)
            if held:
                await self._refuse_parked(tx, position, held)
            return True

    async def _refuse_parked(self, tx: Transaction, position: Position, held: set[str]) -> None:
        name = self._definition.name
        page = await tx.events.read_all(after=Position(position - 1), limit=1, upto=position)
        for event in await read(page.events, self._registry, tx):
            recorded = event.recorded
            keys = {stream_key(recorded)} | _row_keys(self._definition, event)
            for key in sorted(keys & held):
                raise ProjectionError(
                    "EB6006",
                    f"what was recorded at {position} waits in projection {name!r}",
                    where=f"{recorded.stream}@{recorded.version}, parked under {key}",
                    why="an event of the same row or stream failed, and order is kept",
                    next=f"eventbus parked list --key '{key}'; mend the projection, then redrive",
                )


def too_late(standing: Standing, position: Position, at_most: timedelta) -> ProjectionError:
    """EB6005, with what keeps it."""
    name = standing.name
    places = ", ".join(f"{one} at {place}" for one, place in standing.positions.items())
    return ProjectionError(
        "EB6005",
        f"projection {name!r} has not reached {position} within {at_most}",
        where=f"bus.projections.wait({name!r}, {position})",
        why=f"{standing.cause or 'it is on its way'}; {places or 'it never ran'}",
        next=f"nothing is lost: wait again; eventbus projection status {name} APP",
    )


def _row_keys(definition: Definition, recorded: Recorded) -> set[str]:
    if definition.rows is None:
        return set()
    try:
        return {row_key(key_text(one.key)) for one in definition.steps(recorded.event, 0)}
    except (CodecError, ValueError, TypeError):
        return set()  # it is parked by its stream then
