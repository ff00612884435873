"""bus.projections: where read models stand, waiting for one, reading a row."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from eventbus.codec import Registry
from eventbus.errors import ProjectionError
from eventbus.inspection import Inspection, Selection
from eventbus.sourcing.arrivals import Arrivals
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.folding import Step, fold
from eventbus.sourcing.read_model import Key, ReadModel
from eventbus.sourcing.rebuild import Beat, Options, Rebuild, Rebuilt, assist, roll_back
from eventbus.sourcing.recorded import read
from eventbus.sourcing.standing import Standing, standing_of
from eventbus.sourcing.view import Encode
from eventbus.sourcing.waiting import Waiting, too_late
from eventbus.storage import Storage
from eventbus.storage.events import Filter, Position
from eventbus.storage.projections import Difference

SOON = timedelta(seconds=2)
PAGE = 1000
AS_IT_IS = Options()


class Projector:
    """What may be asked about projections, and done to them.

    Args:
        storage: entered with the bus.
        definitions: the projections of the bus, by name.
        registry: decodes what is recorded.
        inspection: writes the audit rows of pauses.
        arrivals: how far rows are that are written in this process.
    """

    def __init__(
        self,
        storage: Storage,
        definitions: Mapping[str, Definition],
        registry: Registry,
        inspection: Inspection,
        *,
        encode: Encode,
        arrivals: Arrivals,
    ) -> None:
        self._storage = storage
        self._definitions = definitions
        self._arrivals = arrivals
        self._registry = registry
        self._inspection = inspection
        self._encode = encode

    async def list(self) -> Sequence[Standing]:
        """All that were handed to the bus, by name."""
        return [await self.status(name) for name in sorted(self._definitions)]

    async def status(self, name: str) -> Standing:
        """Where one stands, and why it lags.

        Raises:
            ProjectionError: EB6007, the bus has none of this name.
        """
        return await standing_of(self._storage, self._inspection, self.definition(name))

    async def wait(self, name: str, position: Position, *, at_most: timedelta = SOON) -> None:
        """Return once what was recorded at `position` is in the read model: read your own writes.

        Args:
            name: of the projection.
            position: what `append` answered.
            at_most: then it gives up.

        Raises:
            ProjectionError: EB6005, it is not there in time; EB6006, its row or stream is parked;
                EB6007, there is no such projection.
        """
        definition = self.definition(name)
        if definition.runs != "following":
            return
        waiting = Waiting(self._storage, definition, self._registry, self._arrivals)
        try:
            async with asyncio.timeout(at_most.total_seconds()):
                await waiting.until(position)
        except TimeoutError:
            raise too_late(await self.status(name), position, at_most) from None

    async def get(self, name: str, *key: Any) -> ReadModel | None:
        """The row of a key; of a live projection folded from the log at this moment.

        Raises:
            ProjectionError: EB6007, there is no such projection, or it keeps its rows itself.
            ValueError, TypeError: the key does not fit.
        """
        definition = self.definition(name)
        rows = definition.rows
        if rows is None:
            raise _no_rows(name)
        wanted = rows.key(key)
        if definition.runs == "live":
            return await self._folded(definition, wanted)
        async with self._storage.transaction() as tx:
            for row in await tx.projections.states(rows.table, [wanted]):
                return rows.read(row)
        return None

    async def pause(self, name: str, *, actor: str, reason: str = "") -> int:
        """Let it stand still, within a few seconds, until it is resumed; 0: it did already."""
        return await self._switch("pause", name, actor, reason)

    async def rebuild(
        self,
        name: str,
        *,
        options: Options = AS_IT_IS,
        beat: Callable[[Beat], None] = lambda _: None,
        confirm: Callable[[Difference], Awaitable[bool]] | None = None,
    ) -> Rebuilt:
        """Make its rows anew from the log, beside those that serve; then let them serve.

        Raises:
            ProjectionError: EB6004, EB6007, EB6009 to EB6014; what serves is untouched.
            StorageError: the database; once more, and it goes on where it was.
        """
        rebuild = Rebuild(
            self._storage,
            self.definition(name),
            self._registry,
            encode=self._encode,
            options=options,
            beat=beat,
            confirm=confirm,
        )
        return await rebuild.run()

    async def assist(self, name: str, *, options: Options = AS_IT_IS) -> int:
        """Copy parts of a rebuild that another process leads, until all are copied.

        Args:
            name: of the projection.
            options: those of the rebuild; its `parts` are shared by all who help.

        Returns:
            How many rows all parts have.

        Raises:
            ProjectionError: EB6007; EB6010, nobody rebuilds it; EB6009, the log cannot be read.
        """
        definition = self.definition(name)
        return await assist(
            self._storage, definition, self._registry, encode=self._encode, options=options
        )

    async def rollback(self, name: str, *, actor: str = "", reason: str = "") -> tuple[int, int]:
        """Let the version that served before serve again, where it stands: (from, to).

        It is kept for a week after the switch.

        Args:
            name: of the projection.
            actor: who asks, for the audit.
            reason: why.

        Raises:
            ProjectionError: EB6010, there is none.
        """
        return await roll_back(
            self._storage,
            self.definition(name),
            self._registry,
            encode=self._encode,
            actor=actor,
            reason=reason,
        )

    async def resume(self, name: str, *, actor: str, reason: str = "", accept: bool = False) -> int:
        """Let it go on; 0: it was not paused.

        Args:
            name: of the projection.
            actor: who asks.
            reason: why, for the audit.
            accept: take its rows and checkpoints as those of this code and this database.
        """
        if accept:
            definition = self.definition(name)
            async with self._storage.transaction() as tx:
                await tx.checkpoints.accept(f"{name}@", fingerprint=definition.fingerprint)
        return await self._switch("resume", name, actor, reason)

    def definition(self, name: str) -> Definition:
        """One of those that were handed to the bus.

        Raises:
            ProjectionError: EB6007.
        """
        if name not in self._definitions:
            close = get_close_matches(name, self._definitions, n=3, cutoff=0.6)
            raise ProjectionError(
                "EB6007",
                f"the bus has no projection {name!r}",
                where="bus.projections",
                why=f"its projections are: {', '.join(sorted(self._definitions)) or 'none'}",
                next=" | ".join(close) or "hand it to EventBus(…, handlers=[…])",
            )
        return self._definitions[name]

    async def _switch(self, verb: Any, name: str, actor: str, reason: str) -> int:
        self.definition(name)
        what = Selection(place="parked", group=f"projection:{name}")
        return await self._inspection.change(verb, what, actor=actor, reason=reason)

    async def _folded(self, definition: Definition, wanted: Key) -> ReadModel | None:
        rows = definition.rows
        assert rows is not None  # noqa: S101 - asked by the only caller
        bound = (await self._storage.read_bound()).bound
        state: dict[Key, ReadModel] = {}
        position, only = Position(0), Filter(types=definition.types)
        while position < bound:
            async with self._storage.transaction() as tx:
                page = await tx.events.read_all(after=position, limit=PAGE, upto=bound, only=only)
            steps: list[Step] = []
            for place, each in enumerate(await read(page.events, self._registry)):
                steps += [one for one in definition.steps(each.event, place) if one.key == wanted]
            folded = fold(rows, state, {wanted: steps} if steps else {})
            for stumble in folded.stumbles.values():
                raise stumble.error
            state |= folded.models
            for key in folded.gone:
                del state[key]
            if page.read_to <= position:
                break
            position = page.read_to
        return state.get(wanted)


def _no_rows(name: str) -> ProjectionError:
    return ProjectionError(
        "EB6007",
        f"projection {name!r} has no rows of its own",
        where="bus.projections.get",
        why="it is of the general form, and only its author knows its tables",
        next="read its tables by SQL",
    )
