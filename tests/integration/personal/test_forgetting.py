"""Personal data stand nowhere in plain text, and one destroyed key takes all of them away."""

import logging
from contextlib import suppress
from datetime import timedelta

import pytest

from eventbus import EventBus, Forgotten
from eventbus.errors import ConfigurationError, PersonalDataError
from eventbus.sealing import Subject, key_ids
from eventbus.sourcing import Recorded
from tests.integration.personal.inside import Inside
from tests.integration.personal.shop import (
    ADA,
    BOB,
    MASTER,
    Account,
    Bounced,
    SignedUp,
    Welcome,
    handlers,
    seen,
)


def signed_up(customer: str = "c-1", email: str = ADA) -> SignedUp:
    return SignedUp(customer_id=customer, email=email)


async def everything(bus: EventBus) -> None:
    """Events in the log and the outbox, handled, parked, dead, projected and in snapshots."""
    for customer, email in (("c-1", ADA), ("c-2", BOB)):
        await bus.publish(signed_up(customer, email))
        bounced = Bounced(customer_id=customer, email=email)
        await bus.events.append(f"mail-{customer}", [bounced], expected="absent")
        for _ in range(4):
            async with bus.transaction() as tx:
                account = await Account.load(customer, tx)
                account.emit(signed_up(customer, email))
                await account.save(tx, publish=False)
            await bus.until_idle()
        await bus.publish(signed_up(customer, email), delay=timedelta(hours=1))
    await bus.until_idle()


def emails() -> set[str]:
    return {str(getattr(one, "email", "")) for one in seen.events}


async def email_of(bus: EventBus, stream: str, tenant: str = "") -> str:
    (recorded,) = await bus.events.read(stream, tenant=tenant)
    assert isinstance(recorded.event, SignedUp | Bounced)
    return recorded.event.email


async def projected(bus: EventBus, customer: str) -> object:
    row = await bus.projections.get(seen.customers, customer)
    return None if row is None else row.model_dump()["email"]


async def test_no_table_and_no_line_of_a_log_has_plain_text(
    url: str, inside: Inside, caplog: pytest.LogCaptureFixture
) -> None:
    bus = EventBus("memory://", storage=url, handlers=handlers(rows=False), master_key=MASTER)
    await bus.upgrade()
    async with bus:
        with caplog.at_level(logging.DEBUG):
            await everything(bus)
        assert {type(one) for one in seen.events} == {SignedUp, Welcome}
        assert emails() == {ADA, BOB}
        assert len(await bus.dead_letters.list(group="dying")) == 2
        found = await inside.dump()
    for told in ("no mailbox [personal] for c-1", "cannot reach [personal]", "what is [personal]"):
        assert told in found
    assert found.count("sealed:1:") > 20
    assert [each for each in (ADA, BOB) if each in found or each in caplog.text] == []


async def test_a_forgotten_subject_is_gone_everywhere_and_nothing_fails(bus: EventBus) -> None:
    await everything(bus)
    assert await projected(bus, "c-1") == ADA
    before = len(seen.events)
    shredded = await bus.events.forget("c-1", actor="clerk", reason="asked")
    assert (shredded.subject, shredded.new) == (Subject("", "c-1"), True)
    assert shredded.snapshots == 1
    await bus.until_idle()
    assert [await projected(bus, each) for each in ("c-1", "c-2")] == ["[forgotten]", BOB]
    assert [await email_of(bus, f"mail-{each}") for each in ("c-1", "c-2")] == ["[forgotten]", BOB]
    async with bus.transaction() as tx:
        account = await Account.load("c-1", tx)
        assert (account.email, account.changes, account.version) == ("[forgotten]", 4, 4)
        assert (await Account.load("c-2", tx)).email == BOB
    await bus.dead_letters.change("redrive", actor="clerk", group="dying")
    await bus.publish(signed_up())
    await bus.until_idle()
    assert len(seen.events) == before + 2
    del seen.events[:before]
    assert emails() == {"[forgotten]"}
    assert all(isinstance(getattr(one, "email", ""), Forgotten) for one in seen.events)
    await bus.projections.rebuild(seen.customers)
    assert [await projected(bus, each) for each in ("c-1", "c-2")] == ["[forgotten]", BOB]


async def test_a_state_with_someone_forgotten_is_kept_again(bus: EventBus) -> None:
    await everything(bus)
    await bus.events.forget("c-1")
    for customer in ("c-1", "c-2"):
        for _ in range(3):
            async with bus.transaction() as tx:
                account = await Account.load(customer, tx)
                account.emit(signed_up(customer, BOB))
                await account.save(tx, publish=False)
            await bus.until_idle()
    assert (await bus.events.forget("c-1")).snapshots == 0
    async with bus.transaction() as tx:
        assert [(await Account.load(each, tx)).email for each in ("c-1", "c-2")] == [
            "[forgotten]",
            BOB,
        ]
    assert (await bus.events.forget("c-2")).snapshots == 1


async def test_forgotten_twice_is_told_once(bus: EventBus) -> None:
    await bus.publish(signed_up())
    first = await bus.events.forget("c-1")
    again = await bus.events.forget("c-1")
    assert (again.new, again.at) == (False, first.at)
    page = await bus.events.read_all()
    assert [one.recorded.message.type for one in page.events] == ["eventbus.subject-forgotten"]
    assert [one.subject.name for one in await bus.events.forgotten()] == ["c-1"]


async def test_a_subject_is_forgotten_in_its_tenant_alone(bus: EventBus) -> None:
    for tenant in ("t1", "t2"):
        headers = {"tenant": tenant}
        await bus.events.append("mail-1", [signed_up()], expected="absent", headers=headers)
    await bus.events.forget("c-1", tenant="t1")
    assert [await email_of(bus, "mail-1", each) for each in ("t1", "t2")] == ["[forgotten]", ADA]
    (told,) = await bus.events.read("forgotten-c-1", tenant="t1")
    assert told.recorded.message.tenant == "t1"


async def test_a_restored_backup_is_forgotten_again(url: str, inside: Inside) -> None:
    bus = EventBus("memory://", storage=url, handlers=[SignedUp], master_key=MASTER)
    await bus.upgrade()
    async with bus:
        await bus.events.append("mail-1", [signed_up()], expected="absent")
        async with bus.transaction() as tx:
            (key,) = await tx.storage.subject_keys.standing([Subject("", "c-1")])
        await bus.events.forget("c-1")
    assert key.wrapped is not None
    await inside.bring_back(key.wrapped)
    async with bus.replace() as restored:
        assert await email_of(restored, "mail-1") == ADA
        assert await restored.events.forgotten() == []
        assert (await restored.events.forget("c-1")).new
        assert await email_of(restored, "mail-1") == "[forgotten]"


async def test_a_key_that_was_rolled_back_seals_nothing_later(bus: EventBus) -> None:
    with suppress(LookupError):
        async with bus.transaction() as tx:
            await tx.publish(signed_up())
            raise LookupError
    async with bus.transaction() as tx:
        with suppress(LookupError):
            async with tx.storage.savepoint():
                await tx.publish(signed_up())
                raise LookupError
        await tx.publish(signed_up())
        await tx.append("mail-1", [signed_up(), signed_up()], expected="absent", publish=False)
    await bus.until_idle()
    (found,) = {key for one in await bus.events.read("mail-1") for key in keys_of(one)}
    async with bus.transaction() as tx:
        (key,) = await tx.storage.subject_keys.standing([Subject("", "c-1")])
    assert key.id == found
    assert emails() == {ADA}


async def test_another_master_key_does_not_start(url: str) -> None:
    told = {"storage": url, "handlers": handlers()}
    bus = EventBus("memory://", **told, master_key=MASTER)  # type: ignore[arg-type]
    await bus.upgrade()
    async with bus:
        await bus.events.append("mail-1", [signed_up()], expected="absent")
    other = EventBus("memory://", **told, master_key=bytes(32))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError) as caught:
        async with other:
            pass
    assert caught.value.code == "EB1122"
    async with EventBus("memory://", **told, master_key=MASTER) as again:  # type: ignore[arg-type]
        assert await email_of(again, "mail-1") == ADA


@pytest.mark.parametrize("master_key", [None, b"short"])
def test_personal_fields_need_a_master_key(master_key: bytes | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EventBus("memory://", storage="sqlite://", handlers=handlers(), master_key=master_key)
    assert caught.value.code == "EB1122"


async def test_personal_fields_need_a_storage() -> None:
    with pytest.raises(ConfigurationError) as caught:
        EventBus("memory://", handlers=handlers(rows=False)[:1], master_key=MASTER)
    assert caught.value.code == "EB1122"
    async with EventBus("memory://") as bus:
        with pytest.raises(ConfigurationError) as caught:
            await bus.publish(signed_up())
        assert caught.value.code == "EB1122"


async def test_a_name_that_no_row_can_have_is_refused(bus: EventBus) -> None:
    for name in ("c" * 1001, "c\0"):
        with pytest.raises(PersonalDataError) as caught:
            await bus.publish(signed_up(name))
        assert caught.value.code == "EB3119"
        with pytest.raises(PersonalDataError):
            await bus.events.forget(name)
    await bus.events.forget("c" * 1000)  # a stream of that name would be too long
    (told,) = (await bus.events.read_all()).events
    assert told.recorded.stream.startswith("forgotten-")


def keys_of(one: Recorded) -> set[bytes]:
    return key_ids([one.recorded.message.payload])
