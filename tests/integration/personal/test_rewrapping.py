"""The master key is exchanged while everything runs: nobody notices, and the old one is let go."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from eventbus import EventBus, Forgotten
from eventbus.errors import ConfigurationError, PersonalDataError
from eventbus.inspection import Inspected
from eventbus.keyring import MasterKeys
from eventbus.sourcing import Rewrapped
from eventbus.sqlite import SqliteStorage
from eventbus.testing import FaultPlan
from eventbus.testing.faults import Fail, FaultyStorage
from tests.integration.personal.inside import Inside
from tests.integration.personal.shop import ADA, SignedUp, welcome

OLD, NEW, OTHER = os.urandom(32), os.urandom(32), os.urandom(32)


@asynccontextmanager
async def reader(url: str, master: MasterKeys) -> AsyncIterator[EventBus]:
    """Another process: it consumes nothing, and keeps no keys of others."""
    bus = EventBus(
        "memory://", storage=url, handlers=[welcome], service="reader", master_key=master
    )
    async with bus.client():
        yield bus


async def sign_up(bus: EventBus, *customers: str) -> None:
    for each in customers:
        event = SignedUp(customer_id=each, email=ADA)
        await bus.events.append(f"customer-{each}", [event], expected="absent", publish=False)


async def email(bus: EventBus, customer: str) -> object:
    (one,) = await bus.events.read(f"customer-{customer}")
    assert isinstance(one.event, SignedUp)
    return one.event.email


@pytest.fixture
async def old(url: str) -> None:
    """Customers whose keys the old master key wrapped; one of them is forgotten."""
    bus = EventBus("memory://", storage=url, handlers=[welcome], master_key=OLD)
    await bus.upgrade()
    async with bus.client():
        await sign_up(bus, "c-1", "c-2", "c-3")
        await bus.events.forget("c-3", actor="support")


@pytest.mark.usefixtures("old")
async def test_step_by_step_nobody_notices(url: str, inside: Inside) -> None:
    async with reader(url, [OLD, NEW]) as first:  # wraps with the old one, reads both
        await sign_up(first, "c-4")
    async with reader(url, [NEW, OLD]) as second:
        await sign_up(second, "c-5")
        done = await second.events.rewrap(actor="operator", dry_run=True)
        assert done == Rewrapped(changed=3, before=1, unopened=0)
        assert await second.events.rewrap(actor="operator", reason="once a year") == done
        assert "once a year" in await inside.dump()  # the audit
        again = await second.events.rewrap(actor="operator")
        assert again == Rewrapped(changed=0, before=4, unopened=0)
    async with reader(url, NEW) as third:
        assert [await email(third, f"c-{n}") for n in (1, 2, 4, 5)] == [ADA] * 4
        assert isinstance(await email(third, "c-3"), Forgotten)
        await sign_up(third, "c-6")
    with pytest.raises(ConfigurationError, match="EB1122"):
        async with reader(url, OLD):
            pass


@pytest.mark.usefixtures("old")
async def test_what_was_rewrapped_can_be_forgotten(url: str, inside: Inside) -> None:
    async with reader(url, [NEW, OLD]) as bus:
        await bus.events.rewrap(actor="operator")
        await bus.events.forget("c-1", actor="support")
        assert isinstance(await email(bus, "c-1"), Forgotten)
        assert (await bus.events.rewrap(actor="operator")).before == 1
    assert ADA not in await inside.dump()


async def test_who_is_interrupted_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventbus.keyring.REWRAPPED", 2)
    plan = FaultPlan()
    storage = FaultyStorage(SqliteStorage(), plan)
    async with storage:
        await _fill(storage, OLD)
        bus = EventBus("memory://", storage=storage, handlers=[welcome], master_key=[NEW, OLD])
        plan.add("subject_keys.rewrap", 2, Fail(LookupError("cut off")))
        with pytest.raises(LookupError):
            await bus.events.rewrap(actor="operator")
        done = await bus.events.rewrap(actor="operator")
        assert done == Rewrapped(changed=3, before=2, unopened=0)


async def test_what_no_master_key_opens_is_counted_and_left(url: str, inside: Inside) -> None:
    bus = EventBus("memory://", storage=url, handlers=[welcome], master_key=OTHER)
    await bus.upgrade()
    async with bus.client():
        await sign_up(bus, "c-1")
    bus = EventBus("memory://", storage=url, handlers=[welcome], master_key=[NEW, OLD])
    async with cast("Inspected", bus.storage):
        before = await inside.dump()
        done = await bus.events.rewrap(actor="operator")
        assert done == Rewrapped(changed=0, before=0, unopened=1)
        assert await inside.dump() == before
        with pytest.raises(PersonalDataError, match="EB3116"):
            await email(bus, "c-1")


@pytest.mark.parametrize("master", [[], [NEW, b"short"], b"short"], ids=["none", "second", "one"])
def test_every_master_key_has_32_bytes(master: MasterKeys) -> None:
    with pytest.raises(ConfigurationError, match="EB1122"):
        EventBus("memory://", storage="sqlite://", handlers=[welcome], master_key=master)


async def test_without_a_master_key_nothing_is_rewrapped() -> None:
    async with EventBus("memory://", storage="sqlite://") as bus:
        with pytest.raises(ConfigurationError, match="EB1122"):
            await bus.events.rewrap(actor="operator")


async def _fill(storage: FaultyStorage, master: bytes) -> None:
    bus = EventBus("memory://", storage=storage, handlers=[welcome], master_key=master)
    await sign_up(bus, *[f"c-{number}" for number in range(5)])
