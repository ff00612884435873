"""Given events, then rows: what a folding projection makes of events, without a database."""

from typing import Any, Generic, Self, TypeVar

from eventbus.bus import EventBus
from eventbus.event import Event
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.folding import by_key, fold
from eventbus.sourcing.projection import FoldingProjection, declared
from eventbus.sourcing.read_model import Key, ReadModel
from eventbus.sourcing.rebuild import Options

V = TypeVar("V", bound=ReadModel)


class Projected(Generic[V]):
    """Rows as events made them; `given` adds events, `then` compares."""

    def __init__(self, projection: type[FoldingProjection[V]] | FoldingProjection[V]) -> None:
        if declared(projection) is None:
            raise TypeError(f"{projection!r} is no folding projection")
        self._definition = Definition(projection)
        self._rows: dict[Key, Any] = {}
        self._error: Exception | None = None

    def given(self, *events: Event) -> Self:
        """These happen, in this order; what one of them raises is kept for `then`."""
        for event in events:
            if self._error is None:
                try:
                    self._happen(event)
                except Exception as error:
                    self._error = error
        return self

    @property
    def rows(self) -> list[V]:
        """All rows, in the order of their keys.

        Raises:
            Exception: what the projection raised at an event.
        """
        if self._error is not None:
            raise self._error
        return [self._rows[key] for key in sorted(self._rows, key=repr)]

    def then(self, *rows: V) -> None:
        """These rows are there, and no others.

        Raises:
            AssertionError: they are not; it lists both.
        """
        wanted = sorted(rows, key=lambda row: repr(self._model.key_of(row)))
        if self.rows != wanted:
            raise AssertionError(f"there are\n{_listed(self.rows)}\nnot\n{_listed(wanted)}")

    def then_nothing(self) -> None:
        """There is no row."""
        self.then()

    def then_raises(self, kind: type[Exception]) -> None:
        """One of the events failed like that: in operation it is parked with its key.

        Raises:
            AssertionError: none did, or otherwise.
        """
        error = self._error
        if error is None:
            raise AssertionError(f"nothing failed; there are\n{_listed(self.rows)}")
        assert isinstance(error, kind), f"it failed with {error!r}, not {kind.__name__}"  # noqa: S101

    @property
    def _model(self) -> Any:
        return self._definition.rows

    def _happen(self, event: Event) -> None:
        steps = by_key(self._definition.steps(event, 0))
        folded = fold(self._model, self._rows, steps)
        for stumble in folded.stumbles.values():
            raise stumble.error
        for key, row in zip(folded.models, folded.rows, strict=True):
            self._rows[key] = self._model.read(row)
        for key in folded.gone:
            del self._rows[key]


def projected(projection: type[FoldingProjection[V]] | FoldingProjection[V]) -> Projected[V]:
    """A projection without rows.

    `projected(RevenueByCountry).given(OrderPlaced(…)).then(Revenue(country="UK", orders=1))`
    """
    return Projected(projection)


def _listed(rows: list[Any]) -> str:
    return "\n".join(f"  {row!r}" for row in rows) or "  nothing"


async def assert_rebuild_equals_live(bus: EventBus, name: str) -> int:
    """A replay of the whole log gives the rows that serve; how many they are.

    The bus is entered and its projection has run. Nothing is switched, and the shadow goes again.

    Raises:
        AssertionError: rows differ, are missing or too many; it names keys and columns.
        ProjectionError: the log cannot be replayed at all.
    """
    rebuilt = await bus.projections.rebuild(name, options=Options(switch=False))
    assert bus.storage is not None  # noqa: S101 - there are projections
    async with bus.storage.transaction() as tx:
        await tx.projections.drop(name, rebuilt.new)
    found = rebuilt.difference
    if found.differ or found.new or found.gone or rebuilt.parked:
        listed = [f"  {one['kind']}  {one['key']}  {one['columns']}" for one in found.examples]
        lines = "\n".join(listed)
        raise AssertionError(
            f"a replay gives other rows: {found.differ} differ, {found.new} are new,"
            f" {found.gone} are gone, {rebuilt.parked} sequences failed\n{lines}"
        )
    return found.equal
