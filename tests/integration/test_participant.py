"""The participant's half of a saga, seen from the saga: what it sends, and what comes back.

Commands come as a saga in any language would send them: by headers.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from eventbus import (
    Command,
    Context,
    EventBus,
    Group,
    Reject,
    Rejection,
    Reply,
    RetryPolicy,
    Undone,
    handles,
    undoes,
)
from eventbus.codec import Encoder
from eventbus.event import TypedMessage
from eventbus.handler import Retry
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import NO_HEADERS, Message
from eventbus.sqlite import SqliteStorage
from eventbus.storage.sagas import EffectStart
from eventbus.testing.harness import Clock, Published, RecordingBroker

REPLIES = "place-order.replies"
PAYMENTS = Group("payments", retry=RetryPolicy(in_place=0, parked=(timedelta(seconds=5),)))


class Charged(Reply, type="pay.charged"):
    charge: str


class Declined(Rejection, type="pay.declined"):
    reason: str


class Charge(Command[Charged], type="pay.charge", key="order", rejects=(Declined,)):
    order: str
    cents: int = 100


class Refund(Command[Undone], type="pay.refund", key="order"):
    order: str


class Teller:
    """A participant: charges and refunds are rows; `fails` breaks the next calls."""

    def __init__(self) -> None:
        self.fails: list[Exception] = []
        self.done: list[Charged | None] = []
        self.keys: list[str] = []

        @handles(Charge, group=PAYMENTS)
        async def charge(command: Charge, ctx: Context) -> Charged:
            self.keys.append(ctx.idempotency_key)
            await ctx.sql.execute("INSERT INTO ledger VALUES ($1, 1)", command.order)
            if self.fails:
                raise self.fails.pop()
            if command.cents > 1000:
                raise Reject(Declined(reason="limit"))
            return Charged(charge=f"C-{len(self.keys)}")

        @undoes(charge, Refund)
        async def refund(command: Refund, done: Charged, ctx: Context) -> None:
            self.done.append(done)
            await ctx.sql.execute("INSERT INTO ledger VALUES ($1, -1)", command.order)
            if self.fails:
                raise self.fails.pop()

        self.handlers = (charge, refund)


class Saga:
    """One saga's messages to one participant."""

    def __init__(self, bus: EventBus, published: Published, clock: Clock) -> None:
        self.bus = bus
        self.clock = clock
        self.saga_id = uuid4()
        self.forward = uuid4()
        self.undo_id = uuid4()
        self._published = published
        self._encoder = Encoder("/orders", max_body=1 << 20)

    def made(self, command: Command[Any], phase: str = "forward", **headers: str) -> Message:
        effect = {"forward": self.forward, "undo": self.undo_id}.get(phase, uuid4())
        told = {
            "sagaid": str(self.saga_id),
            "sagatype": "place-order",
            "sagastep": "charge",
            "sagaphase": phase,
            "sagaeffect": str(effect),
            "sagareplyto": REPLIES,
            "sagasince": datetime.now(UTC).isoformat(),
        }
        if phase != "forward":
            told["sagatarget"] = str(self.forward)
        tenant = {"tenant": headers.pop("tenant")} if "tenant" in headers else NO_HEADERS
        made = self._encoder.typed(command, tenant, None)
        return replace(made, headers={**made.headers, **told, **headers})

    async def send(self, command: Command[Any], phase: str = "forward", **headers: str) -> Message:
        message = self.made(command, phase, **headers)
        await self.together(message)
        return message

    async def together(self, *messages: Message) -> None:
        """In one transaction, so they come in one batch."""
        async with self.bus.transaction() as tx:
            await tx.storage.outbox.add(messages)
        await self.bus.until_idle()

    async def charge(self, **fields: Any) -> Message:
        return await self.send(Charge(order="A", **fields))

    async def undo(self) -> Message:
        return await self.send(Refund(order="A"), "undo")

    async def resolve(self) -> Message:
        return await self.send(Charge(order="A"), "resolve")

    @property
    def replies(self) -> Sequence[Message]:
        return [one for one in self._published.messages if one.topic == REPLIES]

    @property
    def outcomes(self) -> list[str]:
        return [one.headers["sagaoutcome"] for one in self.replies]

    async def ledger(self) -> list[int]:
        async with self.bus.transaction() as tx:
            rows = await tx.sql.fetch("SELECT amount FROM ledger ORDER BY amount DESC")
        return [row["amount"] for row in rows]


@asynccontextmanager
async def running(*handlers: object) -> AsyncIterator[Saga]:
    clock, published = Clock(), Published()
    transport = MemoryTransport(RecordingBroker(published, now=clock))
    storage = SqliteStorage(now=clock)
    async with EventBus(transport, storage=storage, handlers=handlers) as bus:
        clock.follow(bus)
        async with bus.transaction() as tx:
            await tx.sql.execute('CREATE TABLE ledger ("order" TEXT, amount INTEGER)')
        yield Saga(bus, published, clock)


@pytest.fixture
def teller() -> Teller:
    return Teller()


@pytest.fixture
async def saga(teller: Teller) -> AsyncIterator[Saga]:
    async with running(*teller.handlers) as saga:
        yield saga


async def test_a_command_is_answered_with_what_its_handler_returned(saga: Saga) -> None:
    command = await saga.charge()
    (reply,) = saga.replies
    assert (reply.type, reply.payload) == ("pay.charged", b'{"charge":"C-1"}')
    assert reply.key == str(saga.saga_id)
    assert reply.headers["sagaid"] == str(saga.saga_id)
    assert reply.headers["sagaeffect"] == str(saga.forward)
    assert reply.headers["sagaoutcome"] == "succeeded"
    assert reply.headers["causationid"] == command.id
    assert reply.headers["correlationid"] == command.headers["correlationid"]
    assert await saga.ledger() == [1]


async def test_a_tenant_leads_the_key_of_the_reply(saga: Saga) -> None:
    await saga.send(Charge(order="A"), tenant="t1")
    assert saga.replies[0].key == f"t1/{saga.saga_id}"
    assert saga.replies[0].headers["tenant"] == "t1"


async def test_sent_again_it_runs_once_and_its_answer_is_repeated(
    saga: Saga, teller: Teller
) -> None:
    await saga.charge()
    await saga.charge()
    first, again = saga.replies
    assert len(teller.keys) == 1
    assert (again.type, again.payload) == (first.type, first.payload)
    assert again.headers["dataschema"] == first.headers["dataschema"]
    assert again.id != first.id, "under the old id it would die in the inbox of the saga"
    assert saga.outcomes == ["succeeded", "succeeded"]
    assert await saga.ledger() == [1]


async def test_a_rejection_leaves_nothing_and_is_repeated(saga: Saga) -> None:
    await saga.charge(cents=5000)
    await saga.charge(cents=5000)
    assert saga.outcomes == ["rejected", "rejected"]
    assert {one.type for one in saga.replies} == {"pay.declined"}
    assert {one.payload for one in saga.replies} == {b'{"reason":"limit"}'}
    assert await saga.ledger() == []


async def test_another_error_leaves_no_fence_and_the_next_attempt_runs(
    saga: Saga, teller: Teller
) -> None:
    teller.fails = [ZeroDivisionError()]
    await saga.charge()
    assert saga.outcomes == []
    await saga.clock.advance(seconds=7)
    assert saga.outcomes == ["succeeded"]
    assert await saga.ledger() == [1]
    assert set(teller.keys) == {f"payments:{saga.forward}"}, "one key for what is outside"


async def test_an_undo_gets_the_answer_that_was_given_and_happens_once(
    saga: Saga, teller: Teller
) -> None:
    await saga.charge()
    await saga.undo()
    await saga.undo()
    assert teller.done == [Charged(charge="C-1")]
    assert saga.outcomes == ["succeeded", "undone", "undone"]
    assert {one.headers["sagaeffect"] for one in saga.replies[1:]} == {str(saga.undo_id)}
    assert await saga.ledger() == [1, -1]


async def test_an_undo_before_its_command_bars_it(saga: Saga, teller: Teller) -> None:
    await saga.undo()
    await saga.charge()
    await saga.undo()
    assert saga.outcomes == ["undone", "cancelled", "undone"]
    assert teller.done == []
    assert await saga.ledger() == []


async def test_what_was_rejected_is_not_undone(saga: Saga, teller: Teller) -> None:
    await saga.charge(cents=5000)
    await saga.undo()
    assert saga.outcomes == ["rejected", "undone"]
    assert teller.done == []


async def test_a_command_that_comes_after_its_undo_is_cancelled(saga: Saga) -> None:
    await saga.charge()
    await saga.undo()
    await saga.charge()
    assert saga.outcomes == ["succeeded", "undone", "cancelled"]
    assert await saga.ledger() == [1, -1]


async def test_an_undo_that_fails_is_tried_again(saga: Saga, teller: Teller) -> None:
    await saga.charge()
    teller.fails = [ZeroDivisionError()]
    await saga.undo()
    assert saga.outcomes == ["succeeded"]
    assert await saga.ledger() == [1]
    await saga.clock.advance(seconds=7)
    assert saga.outcomes == ["succeeded", "undone"]
    assert await saga.ledger() == [1, -1]


async def test_an_undo_may_be_refused_and_what_was_done_stays_done(
    saga: Saga, teller: Teller
) -> None:
    await saga.charge()
    teller.fails = [Reject(Declined(reason="closed"))]
    await saga.undo()
    assert saga.outcomes == ["succeeded", "rejected"]
    assert await saga.ledger() == [1]
    await saga.undo()
    assert saga.outcomes == ["succeeded", "rejected", "undone"], "a person mended it"


async def test_a_resolve_is_answered_by_what_stands(saga: Saga, teller: Teller) -> None:
    await saga.charge()
    await saga.resolve()
    first, resolved = saga.replies
    assert resolved.headers["sagaeffect"] == str(saga.forward)
    assert (resolved.headers["sagaoutcome"], resolved.payload) == ("succeeded", first.payload)
    assert len(teller.keys) == 1


async def test_a_resolve_of_what_never_came_bars_it_for_ever(saga: Saga) -> None:
    await saga.resolve()
    await saga.charge()
    await saga.resolve()
    assert saga.outcomes == ["cancelled", "cancelled", "cancelled"]
    assert {one.headers["sagaeffect"] for one in saga.replies} == {str(saga.forward)}
    assert await saga.ledger() == []


@pytest.mark.parametrize(
    ("phase", "outcome", "type_"),
    [
        ("forward", "cancelled", "eventbus.cancelled"),
        ("undo", "rejected", "eventbus.forgotten"),
        ("resolve", "rejected", "eventbus.forgotten"),
    ],
)
async def test_when_the_fence_may_have_forgotten_nothing_is_believed(
    saga: Saga, teller: Teller, phase: str, outcome: str, type_: str
) -> None:
    since = (datetime.now(UTC) - timedelta(days=89, hours=1)).isoformat()
    command: Command[Any] = Refund(order="A") if phase == "undo" else Charge(order="A")
    for _ in range(2):
        await saga.send(command, phase, sagasince=since)
    assert [(one.headers["sagaoutcome"], one.type) for one in saga.replies] == [
        (outcome, type_)
    ] * 2
    assert (teller.keys, teller.done) == ([], [])


@pytest.mark.parametrize(
    "broken",
    [
        {"sagaeffect": "one"},
        {"sagaid": ""},
        {"sagaphase": "undo"},
        {"sagaphase": "sideways"},
        {"sagareplyto": "orders"},
        {"sagasince": "yesterday"},
        {"sagasince": "2026-01-01T00:00:00"},
    ],
)
async def test_headers_that_no_saga_sends_are_quarantined(
    saga: Saga, teller: Teller, broken: dict[str, str]
) -> None:
    await saga.send(Charge(order="A"), **broken)
    (letter,) = await saga.bus.dead_letters.list()
    assert letter["code"] == "EB7051"
    assert (teller.keys, saga.replies) == ([], [])


async def test_an_undo_without_its_target_is_quarantined(saga: Saga, teller: Teller) -> None:
    await saga.bus.send(Refund(order="A"))
    await saga.send(Refund(order="A"), "forward")
    await saga.bus.until_idle()
    letters = await saga.bus.dead_letters.list()
    assert {letter["code"] for letter in letters} == {"EB7051"}
    assert teller.done == []


async def test_a_rejection_that_the_command_does_not_name_is_a_failure(saga: Saga) -> None:
    class Other(Rejection, type="pay.other"):
        pass

    @handles(Charge, group=Group("other", retry=RetryPolicy(in_place=0, parked=())))
    async def charge(command: Charge, ctx: Context) -> Charged:
        raise Reject(Other())

    async with running(charge) as other:
        await other.charge()
        (letter,) = await other.bus.dead_letters.list()
    assert "EB4109" in letter["error"]
    assert other.replies == []


async def test_without_a_storage_a_sagas_command_does_not_run() -> None:
    seen: list[str] = []

    @handles(Charge, group=Group("bare", retry=RetryPolicy(in_place=0, parked=())))
    async def charge(command: Charge, ctx: Context) -> Charged:
        seen.append(command.order)
        return Charged(charge="C")

    broker = MemoryBroker()
    transport = MemoryTransport(broker)
    message = Encoder("/orders", max_body=1000).typed(Charge(order="A"), NO_HEADERS, None)
    message = replace(message, headers={**message.headers, "sagaeffect": str(uuid4())})
    async with EventBus(transport, handlers=[charge]) as bus:
        await transport.publish([message])
        await bus.send(Charge(order="plain"))
        await bus.until_idle()
        (buried,) = broker.published("pay.bare.dlq")
    assert seen == ["plain"]
    assert "EB7050" in str(buried.headers)


class Outside:
    """A participant whose work is done in no transaction."""

    def __init__(self) -> None:
        self.fails: list[Exception] = []
        self.calls: list[tuple[str, TypedMessage | None, str]] = []

        @handles(Charge, group=Group("outside", transactional=False, retry=PAYMENTS.retry))
        async def charge(command: Charge, ctx: Context) -> Charged:
            self.calls.append(("charge", None, ctx.idempotency_key))
            if self.fails:
                raise self.fails.pop()
            return Charged(charge="C-1")

        @undoes(charge, Refund)
        async def refund(command: Refund, done: Charged | None, ctx: Context) -> None:
            self.calls.append(("refund", done, ctx.idempotency_key))
            if self.fails:
                raise self.fails.pop()

        self.handlers = (charge, refund)


@pytest.fixture
def outside() -> Outside:
    return Outside()


@pytest.fixture
async def far(outside: Outside) -> AsyncIterator[Saga]:
    async with running(*outside.handlers) as saga:
        yield saga


async def test_outside_a_transaction_an_effect_is_claimed_done_and_undone(
    far: Saga, outside: Outside
) -> None:
    await far.charge()
    await far.charge()
    await far.undo()
    await far.undo()
    assert far.outcomes == ["succeeded", "succeeded", "undone", "undone"]
    assert outside.calls == [
        ("charge", None, f"outside:{far.forward}"),
        ("refund", Charged(charge="C-1"), f"outside:{far.undo_id}"),
    ]


async def test_a_failed_attempt_outside_is_made_again_under_one_key(
    far: Saga, outside: Outside
) -> None:
    outside.fails = [ZeroDivisionError()]
    await far.charge()
    assert far.outcomes == []
    await far.clock.advance(seconds=7)
    assert far.outcomes == ["succeeded"]
    assert {call[2] for call in outside.calls} == {f"outside:{far.forward}"}


async def test_an_undo_that_meets_running_work_is_tried_later(far: Saga, outside: Outside) -> None:
    outside.fails = [Retry(after=timedelta(seconds=1), counted=False)]
    await far.charge()
    await far.send(Refund(order="B"), "undo")
    assert [call[0] for call in outside.calls] == ["charge"], "who knows whether it still runs"
    await far.clock.advance(seconds=60)
    assert [call[0] for call in outside.calls] == ["charge", "charge", "refund"]
    assert far.outcomes == ["succeeded", "undone"]


async def test_work_whose_worker_died_is_taken_over_when_its_lease_ended(
    far: Saga, outside: Outside
) -> None:
    start = EffectStart(
        effect_id=far.forward, state="executing", saga_id=None, lease=timedelta(seconds=30)
    )
    async with far.bus.transaction() as tx:
        await tx.storage.sagas.begin_effect([start])
    await far.charge()
    assert outside.calls == [], "it may still run: its lease says so"
    await far.clock.advance(seconds=60)
    assert far.outcomes == ["succeeded"]
    assert len(outside.calls) == 1


async def test_an_outcome_that_nobody_knows_is_told_and_can_be_undone(
    far: Saga, outside: Outside
) -> None:
    outside.fails = [ZeroDivisionError(), ZeroDivisionError(), ZeroDivisionError()]
    await far.charge()
    await far.clock.advance(minutes=3)
    assert len(await far.bus.dead_letters.list()) == 1
    outside.fails = []
    await far.send(Charge(order="B"), "resolve")
    assert far.outcomes == ["unknown"]
    assert far.replies[0].headers["sagaeffect"] == str(far.forward)
    await far.send(Refund(order="B"), "undo")
    assert far.outcomes == ["unknown", "undone"]
    assert outside.calls[-1][:2] == ("refund", None)
