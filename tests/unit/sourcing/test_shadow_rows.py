"""The rows of a scan in memory: what is kept of a row, and for how long."""

from dataclasses import dataclass
from typing import Any, cast

import pytest

from eventbus import Event
from eventbus.codec import Registry
from eventbus.errors import ProjectionError
from eventbus.message import Message
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.projection import FoldingProjection, projects
from eventbus.sourcing.rebuild.shadow_rows import ShadowRows
from eventbus.sourcing.recorded import Recorded
from eventbus.storage.events import Position
from eventbus.storage.projections import ProjectionVersion
from tests.unit.sourcing.declarations import Placed, Revenue, Revenues, Withdrawn, placed

VERSION = ProjectionVersion(
    name="revenue",
    version=2,
    status="building",
    code_hash=b"",
    shards=1,
    built_to=Position(9),
    publishes_after=Position(9),
)
GONE = Withdrawn(order_id="A", country="UK")


class ByStream(FoldingProjection[Revenue], name="by-stream", by_stream=True):
    @projects(Placed, key=lambda event: event.country)
    def placed(self, row: Revenue, event: Placed) -> Revenue:
        return row.model_copy(update={"orders": row.orders + 1})

    @projects(Withdrawn, key=lambda event: event.country)
    def withdrawn(self, row: Revenue, event: Withdrawn) -> None:
        return None


@dataclass
class Said:
    """What a recorded message is asked for here."""

    type: str
    payload: bytes
    stream: str
    tenant: str
    schema_version: int = 1
    version: int = 1
    position: int = 1

    @property
    def message(self) -> Message:
        return Message(id="1", type=self.type, source="/tests", topic="shop", payload=self.payload)


def _taken(projection: type, *events: tuple[str, Event], of: int = 1, tenant: str = "") -> Any:
    rows = ShadowRows(Definition(projection), VERSION, number=0, of=of)
    for stream, event in events:
        _take(rows, stream, event, tenant)
    return rows


def _take(rows: ShadowRows, stream: str, event: Event, tenant: str = "") -> None:
    wire = type(event).__wire__
    assert wire is not None
    said = Said(wire.type, event.model_dump_json().encode(), stream, tenant)
    rows.take(Recorded(cast("Any", said), Registry([Placed, Withdrawn])))


def test_nothing_is_kept_of_a_row_that_was_deleted() -> None:
    rows = _taken(Revenues, ("s-1", placed("UK", 1)), ("s-2", GONE))
    assert (len(rows), rows.written()) == (0, [])
    _take(rows, "s-3", placed("UK", 5))
    assert (len(rows), rows.written()) == (1, [("UK", 1, 5)])


def test_by_stream_it_is_known_whose_a_deleted_row_was() -> None:
    rows = _taken(ByStream, ("s-1", placed("UK", 1)), ("s-1", GONE))
    assert (len(rows), rows.written()) == (1, [])
    with pytest.raises(ProjectionError, match="events of s-1 too") as caught:
        _take(rows, "s-2", placed("UK", 1))
    assert caught.value.code == "EB6009"
    _take(rows, "s-1", placed("UK", 1))
    assert rows.written() == [("UK", 1, 0)]


def test_by_stream_a_stream_of_another_tenant_is_another_one() -> None:
    rows = _taken(ByStream, ("s-1", placed("UK", 1)), tenant="acme")
    with pytest.raises(ProjectionError, match="events of s-1 too, tenant acme"):
        _take(rows, "s-1", placed("UK", 1), "other")


def test_what_comes_after_an_event_that_failed_waits_and_the_row_stays_as_it_was() -> None:
    fine, failing = placed("UK", 1), placed("UK", -1)
    rows = _taken(Revenues, ("s", fine), ("s", failing), ("s", fine), ("s", GONE))
    assert rows.written() == [("UK", 1, 1)]
    assert [one.failure is not None for one in rows.parked[0]] == [True, False, False]
    assert {one.key for one in rows.parked[0]} == {"row:UK"}


def test_a_row_of_another_part_is_passed_over() -> None:
    countries = [f"C{number}" for number in range(50)]
    events = [("s", placed(country, 1)) for country in countries]
    rows = _taken(Revenues, *events, of=2)
    assert 0 < len(rows) < 50
    assert len(rows) == len(rows.written())
