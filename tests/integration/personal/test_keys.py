"""The keys of personal data: read once for a batch, kept for seconds, never after a roll-back."""

from collections import Counter
from datetime import timedelta

import pytest

from eventbus import Event, EventBus, subscribe
from eventbus.keyring import KEPT_SECONDS, MOST_KEPT, Keyring
from eventbus.sealing import Key, Subject, seal
from eventbus.sqlite import SqliteStorage
from eventbus.testing import FaultPlan
from eventbus.testing.faults import FaultyStorage
from tests.integration.personal.shop import ADA, MASTER, SignedUp

CUSTOMERS = [f"c-{number}" for number in range(20)]


class Plain(Event, type="keys.plain", key="order"):
    order: str


@subscribe(SignedUp, group="mail")
async def mail(event: SignedUp) -> None:
    assert event.email == ADA


@subscribe(Plain, group="plain")
async def look(event: Plain) -> None:
    pass


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def counted(events: list[Event]) -> Counter[str]:
    """Calls of the contract, from publishing them in one transaction until all are handled."""
    plan = FaultPlan()
    storage = FaultyStorage(SqliteStorage(), plan)
    bus = EventBus("memory://", storage=storage, handlers=[mail, look], master_key=MASTER)
    async with bus:
        await bus.until_idle()
        plan.trace = []
        async with bus.transaction() as tx:
            for event in events:
                await tx.publish(event)
        await bus.until_idle(at_most=timedelta(seconds=30))
        return Counter(call.rpartition(":")[2] for call in plan.trace)


async def test_a_batch_reads_its_keys_at_once() -> None:
    calls = await counted([SignedUp(customer_id=each, email=ADA) for each in CUSTOMERS * 10])
    batches = calls["inbox.receive"]
    assert calls["outbox.add"] == 200
    assert 1 <= calls["subject_keys.find"] <= batches
    assert batches < 100


async def test_what_has_no_personal_fields_asks_for_no_keys() -> None:
    calls = await counted([Plain(order=each) for each in CUSTOMERS])
    assert calls["outbox.add"] == 20
    assert [call for call in calls if call.startswith("subject_keys")] == []


async def test_a_key_is_kept_for_half_a_minute() -> None:
    plan, clock = FaultPlan(), Clock()
    async with FaultyStorage(SqliteStorage(), plan) as storage:
        keyring = Keyring(storage, MASTER, clock=clock)
        subject = Subject("", "c-1")
        key = (await keyring.sealing([subject]))[subject]
        token = seal(key, b'"x"').encode()
        plan.trace = []
        clock.now = KEPT_SECONDS - 1
        assert (await keyring.opening([token, token]))[key.id] == key
        assert (await keyring.sealing([subject]))[subject] == key
        assert plan.trace == []
        async with storage.transaction() as tx:
            await tx.subject_keys.shred(subject, actor="another process")
        assert (await keyring.opening([token]))[key.id].secret == key.secret
        clock.now = KEPT_SECONDS + 1
        assert (await keyring.opening([token]))[key.id].secret is None
        assert (await keyring.sealing([subject]))[subject].secret is None


async def test_who_forgets_lets_go_at_once() -> None:
    async with SqliteStorage() as storage:
        keyring = Keyring(storage, MASTER, clock=Clock())
        subject = Subject("", "c-1")
        key = (await keyring.sealing([subject]))[subject]
        async with storage.transaction() as tx:
            await tx.subject_keys.shred(subject, actor="us")
        keyring.forget(subject)
        assert (await keyring.opening([seal(key, b"1").encode()]))[key.id].secret is None


async def test_a_key_of_an_open_transaction_is_not_kept() -> None:
    async with SqliteStorage() as storage:
        keyring = Keyring(storage, MASTER, clock=Clock())
        subject = Subject("", "c-1")
        with pytest.raises(LookupError):
            async with storage.transaction() as tx:
                made = (await keyring.sealing([subject], tx))[subject]
                assert (await keyring.sealing([subject], tx))[subject] == made
                assert made.id in await keyring.opening([seal(made, b"1").encode()], tx)
                raise LookupError
        assert await keyring.opening([seal(made, b"1").encode()]) == {}
        assert (await keyring.sealing([subject]))[subject].id != made.id


async def test_the_oldest_keys_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_KEPT >= 1000
    monkeypatch.setattr("eventbus.keyring.MOST_KEPT", 10)
    plan = FaultPlan()
    async with FaultyStorage(SqliteStorage(), plan) as storage:
        keyring = Keyring(storage, MASTER, clock=Clock())
        keys: list[Key] = []
        for name in CUSTOMERS:
            subject = Subject("", name)
            keys.append((await keyring.sealing([subject]))[subject])
        plan.trace = []
        found = await keyring.opening([seal(key, b"1").encode() for key in keys[10:]])
        assert (len(found), plan.trace) == (10, [])
        found = await keyring.opening([seal(key, b"1").encode() for key in keys])
        assert len(found) == 20
        assert len([call for call in plan.trace if "subject_keys.find" in call]) == 1


async def test_a_key_that_another_master_key_wrapped_is_told() -> None:
    async with SqliteStorage() as storage:
        subject = Subject("", "c-1")
        key = (await Keyring(storage, MASTER).sealing([subject]))[subject]
        with pytest.raises(Exception, match="EB3116"):
            await Keyring(storage, bytes(32)).opening([seal(key, b"1").encode()])
