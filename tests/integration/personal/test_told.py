"""What is told of a failure does not quote the personal data that it was about."""

import pytest

from eventbus import EventBus, subscribe
from eventbus.cli.dev import line_per_event
from eventbus.errors import EventBusError, ProjectionError, SourcingError
from eventbus.sourcing import FoldingProjection, ReadModel, projects
from eventbus.testing.conformance.samples import unique
from tests.integration.personal.shop import ADA, BOB, MASTER, SignedUp

EVENT = SignedUp(customer_id="c-1", email=ADA)


def told(error: EventBusError) -> str:
    return f"{error} {error.what} {error.why}"


@subscribe(SignedUp, group="failing")
async def fail(event: SignedUp) -> None:
    raise ValueError(f"no mailbox {event.email} of {event.customer_id}")


async def test_a_replay_that_stops(url: str) -> None:
    bus = EventBus("memory://", storage=url, handlers=[fail], master_key=MASTER)
    await bus.upgrade()
    async with bus.client():
        await bus.events.append("account-1", [EVENT], expected="absent", publish=False)
        with pytest.raises(SourcingError) as stopped:
            await bus.replay("failing")
    assert "no mailbox [personal] of c-1" in told(stopped.value)
    assert ADA not in told(stopped.value)


@pytest.mark.parametrize("where", ["key", "state"])
async def test_an_inline_projection_that_fails(url: str, where: str) -> None:
    class Customer(ReadModel, table=unique("told"), key="customer_id"):
        customer_id: str

    def key_of(event: SignedUp) -> str:
        if where == "key":
            raise ValueError(f"what is {event.email} of {event.customer_id}?")
        return event.customer_id

    class Customers(FoldingProjection[Customer], name=unique("told"), runs="inline"):
        @projects(SignedUp, key=key_of)
        def signed_up(self, row: Customer, event: SignedUp) -> Customer:
            raise ValueError(f"what is {event.email} of {event.customer_id}?")

    bus = EventBus("memory://", storage=url, handlers=[Customers], master_key=MASTER)
    await bus.upgrade()
    async with bus.client():
        with pytest.raises(ProjectionError) as refused:
            await bus.events.append("account-1", [EVENT], expected="absent", publish=False)
    assert "what is [personal] of c-1?" in told(refused.value)
    assert ADA not in told(refused.value)


async def test_the_line_of_eventbus_dev(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    bus = EventBus("memory://", storage=url, handlers=[fail], master_key=MASTER)
    await bus.upgrade()
    async with bus.replace(middleware=[line_per_event]) as watched:
        await watched.publish(EVENT)
        await watched.publish(SignedUp(customer_id="c-2", email=BOB))
        await watched.until_idle()
    lines = capsys.readouterr().out
    assert "no mailbox [personal] of c-1" in lines
    assert "no mailbox [personal] of c-2" in lines
    assert [each for each in (ADA, BOB) if each in lines] == []
