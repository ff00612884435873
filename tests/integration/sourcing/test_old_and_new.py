"""Row 40: old code and new code on one log, and a log that was written on an older schema."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventbus import Event, EventBus, upcast
from eventbus.errors import CodecError
from eventbus.postgres import recorded
from eventbus.postgres import upgrade as of_postgres
from eventbus.sourcing import Aggregate, applies
from eventbus.sqlite import upgrade as of_sqlite
from eventbus.storage.migrations import Migration
from eventbus.testing.conformance.samples import unique

FIRST_WITH_A_LOG = {"postgres": 2, "sqlite": 3}  # migrations


class OldPaid(Event, type="evolving.paid", key="order"):
    order: str
    euros: str


class NewPaid(Event, type="evolving.paid", key="order", version=2):
    order: str
    cents: int
    by: str = "card"

    @upcast(1)
    @staticmethod
    def _in_cents(data: dict[str, object]) -> dict[str, object]:
        return {"order": data["order"], "cents": round(float(str(data["euros"])) * 100)}


class OldShipped(Event, type="evolving.shipped", key="order"):
    order: str


class NewShipped(Event, type="evolving.shipped", key="order"):
    order: str
    parcel: str = ""  # what old code does not know


class OldOrder(Aggregate, stream="evolving"):
    paid = 0.0
    shipped = 0

    @applies(OldPaid)
    def _paid(self, event: OldPaid) -> None:
        self.paid += float(event.euros)

    @applies(OldShipped)
    def _shipped(self, event: OldShipped) -> None:
        self.shipped += 1


class NewOrder(Aggregate, stream="evolving"):
    paid = 0
    parcels: tuple[str, ...] = ()

    @applies(NewPaid)
    def _paid(self, event: NewPaid) -> None:
        self.paid += event.cents

    @applies(NewShipped)
    def _shipped(self, event: NewShipped) -> None:
        self.parcels = (*self.parcels, event.parcel)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> str:
    """Of a log that outlives a bus."""
    if database == "sqlite":
        return f"sqlite:///{tmp_path / 'log.db'}"
    return f"{request.getfixturevalue('server')}?schema={unique('evolving')}"


def old(url: str) -> EventBus:
    return EventBus("memory://", storage=url, handlers=[OldOrder])


def new(url: str) -> EventBus:
    return EventBus("memory://", storage=url, handlers=[NewOrder])


async def emit(bus: EventBus, order: type[Aggregate], *events: Event) -> None:
    async with bus.client(), bus.transaction() as tx:
        loaded = await order.load("1", tx)
        for event in events:
            loaded.emit(event)
        await loaded.save(tx, publish=False)


async def test_each_reads_what_the_other_records_as_far_as_it_may(url: str) -> None:
    await new(url).upgrade()
    await emit(old(url), OldOrder, OldPaid(order="1", euros="4.20"), OldShipped(order="1"))
    await emit(new(url), NewOrder, NewShipped(order="1", parcel="P-1"))

    bus = old(url)
    async with bus.client(), bus.transaction() as tx:
        order = await OldOrder.load("1", tx)  # a new field under the old version is left out
        assert (order.paid, order.shipped) == (4.2, 2)

    await emit(new(url), NewOrder, NewPaid(order="1", cents=1, by="cash"))
    bus = new(url)
    async with bus.client(), bus.transaction() as tx:
        assert (await NewOrder.load("1", tx)).paid == 421
        assert (await NewOrder.load("1", tx)).parcels == ("", "P-1")

    bus = old(url)
    async with bus.client():
        async with bus.transaction() as tx:
            with pytest.raises(CodecError) as caught:  # a version of later is never guessed at
                await OldOrder.load("1", tx)
        assert caught.value.code == "EB3101"
        raw = [one.recorded.payload for one in await bus.events.read("evolving-1")]
        assert raw[-1] == b'{"order":"1","cents":1,"by":"cash"}'


@contextmanager
def schema_up_to(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside the block no later migration is known, and appends are called as they were then."""
    with monkeypatch.context() as patching:
        patching.setattr(recorded, "_unless_all", lambda usual, values: values)
        for one in (of_postgres, of_sqlite):
            known: tuple[Migration, ...] = one.migrations()[:number]
            patching.setattr(one, "migrations", lambda known=known: known)
        yield


async def test_a_log_of_an_older_schema_is_read_and_gone_on_with(
    url: str, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with schema_up_to(FIRST_WITH_A_LOG[database], monkeypatch):
        await old(url).upgrade()
        await emit(old(url), OldOrder, OldPaid(order="1", euros="4.20"), OldShipped(order="1"))
    bus = new(url)
    await bus.upgrade()
    async with bus.client():
        before = await bus.events.read_all()
        assert [one.event for one in before.events] == [
            NewPaid(order="1", cents=420),
            NewShipped(order="1"),
        ]
        paid = NewPaid(order="1", cents=1)
        appended = await bus.events.append("evolving-1", [paid], expected=2)
        after = await bus.events.read_all(after=before.read_to)
        assert [one.event for one in after.events] == [paid]
        assert (appended.version, after.events[0].recorded.position) == (3, appended.position)
        head = await bus.events.head("evolving-1")
        assert head is not None
        assert (head.version, head.state, head.metadata) == (3, "open", {})
