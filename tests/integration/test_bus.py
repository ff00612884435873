"""The life of a bus: entering, publishing, handling, leaving."""

import asyncio
import logging
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from eventbus import (
    Command,
    Context,
    Event,
    EventBus,
    Group,
    Reject,
    Rejection,
    Reply,
    RetryPolicy,
    Untyped,
    handles,
    subscribe,
)
from eventbus.errors import (
    ConfigurationError,
    LimitError,
    NoTransactionError,
    TransportError,
    UnitOfWorkError,
    WiringError,
)
from eventbus.handler import Invocation
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import Message
from eventbus.sqlite import SqliteStorage
from eventbus.testing.conformance.samples import HandClock


class Placed(Event, type="bus.placed", key="order"):
    order: str
    cents: int = 0


class Billed(Event, type="bus.billed", key="order"):
    order: str


class Charged(Reply, type="bus.charged"):
    order: str


class Declined(Rejection, type="bus.declined"):
    pass


class Charge(Command[Charged], type="bus.charge", key="order", rejects=(Declined,)):
    order: str


both = pytest.mark.parametrize("storage", [None, "sqlite://"])


@both
async def test_leaving_works_off_what_is_on_its_way(storage: str | None) -> None:
    seen: list[str] = []

    @subscribe(Placed, group="billing")
    async def bill(event: Placed, ctx: Context) -> None:
        await ctx.publish(Billed(order=event.order))

    @subscribe(Billed, group="mail")
    async def thank(event: Billed) -> None:
        seen.append(event.order)

    async with EventBus("memory://", storage=storage, handlers=[bill, thank]) as bus:
        for number in range(20):
            await bus.publish(Placed(order=f"A-{number % 3}"))
    assert sorted(seen) == sorted(f"A-{number % 3}" for number in range(20))


@both
async def test_the_flow_is_kept_from_message_to_message(storage: str | None) -> None:
    flows: list[tuple[str, str | None, str, str | None]] = []

    @subscribe(Placed, group="billing")
    async def bill(event: Placed, ctx: Context) -> None:
        await ctx.publish(Billed(order=event.order))
        flows.append(flow(ctx.message))

    @subscribe(Billed, group="mail")
    async def thank(event: Billed, ctx: Context) -> None:
        flows.append(flow(ctx.message))

    def flow(message: Message) -> tuple[str, str | None, str, str | None]:
        headers = message.headers
        return message.id, headers.get("causationid"), headers["correlationid"], message.key

    async with EventBus("memory://", storage=storage, handlers=[bill, thank]) as bus:
        first = await bus.publish(Placed(order="A-1"), headers={"tenant": "t1"})
    (one, cause, correlation, key), (_, second_cause, second_correlation, second_key) = flows
    assert (one, cause, correlation, key) == (first, None, first, "t1/A-1")
    assert (second_cause, second_correlation, second_key) == (first, first, "t1/A-1")


@both
async def test_the_untyped_form_works_beside_the_typed_one(storage: str | None) -> None:
    seen: list[Untyped | Placed] = []

    async def created(what: Untyped, ctx: Context) -> None:
        seen.append(what)

    @subscribe("bus.*", group="audit")
    async def audit(what: Untyped) -> None:
        seen.append(what)

    @subscribe(Placed, group="typed")
    async def typed(event: Placed) -> None:
        seen.append(event)

    bus = EventBus("memory://", storage=storage, handlers=[audit, typed])
    bus.subscribe("user.created", created)
    async with bus:
        await bus.publish("user.created", {"user_id": "123"}, key="123")
        await bus.publish("user.deleted", {"user_id": "123"}, key="123")
        await bus.publish("bus.unknown-here", {"a": 1})
        await bus.publish(Placed(order="A-1", cents=5))
    untyped = [what for what in seen if isinstance(what, Untyped)]
    assert Untyped("user.created", {"user_id": "123"}) in untyped
    assert Untyped("bus.unknown-here", {"a": 1}) in untyped
    assert Untyped("bus.placed", {"order": "A-1", "cents": 5}) in untyped
    assert len(untyped) == 3
    assert Placed(order="A-1", cents=5) in seen


async def test_publishing_on_the_bus_inside_a_held_unit_of_work_is_refused() -> None:
    caught: list[BaseException] = []

    @subscribe(Placed, group="g")
    async def handler(event: Placed) -> None:
        with pytest.raises(UnitOfWorkError) as error:
            await bus.publish(Billed(order=event.order))
        caught.append(error.value)

    bus = EventBus("memory://", storage="sqlite://", handlers=[handler])
    async with bus:
        async with bus.transaction() as tx:
            with pytest.raises(UnitOfWorkError) as here:
                await bus.publish(Placed(order="A-1"))

            async def child() -> None:
                await bus.publish(Placed(order="A-1"))

            with pytest.raises(UnitOfWorkError):
                await asyncio.create_task(child(), name="test:child")
            await tx.publish(Placed(order="A-1"))
        await bus.publish(Placed(order="A-2"))
    assert here.value.code == "EB4104"
    assert __file__ in here.value.where
    assert [error.code for error in caught if isinstance(error, UnitOfWorkError)] == ["EB4104"] * 2


async def test_a_transaction_that_fails_publishes_nothing() -> None:
    seen: list[str] = []

    @subscribe(Placed, group="g")
    async def handler(event: Placed) -> None:
        seen.append(event.order)

    async with EventBus("memory://", storage="sqlite://", handlers=[handler]) as bus:
        with pytest.raises(ZeroDivisionError):
            async with bus.transaction() as tx:
                await tx.publish(Placed(order="lost"))
                raise ZeroDivisionError
        async with bus.transaction() as tx:
            await tx.publish(Placed(order="kept"))
        with pytest.raises(UnitOfWorkError) as late:
            await tx.publish(Placed(order="late"))
    assert late.value.code == "EB4106"
    assert seen == ["kept"]


async def test_a_base_class_gets_all_its_known_subclasses() -> None:
    class Base(Event):
        pass

    class One(Base, type="base.one"):
        pass

    class Two(Base, type="base.two"):
        pass

    seen: list[str] = []

    @subscribe(Base, group="all")
    async def everything(event: Base) -> None:
        seen.append(type(event).__name__)

    @subscribe(One, Two, group="both")
    async def either(event: One | Two) -> None:
        seen.append(type(event).__name__.lower())

    async with EventBus("memory://", handlers=[everything, either]) as bus:
        await bus.publish(One())
        await bus.publish(Two())
    assert sorted(seen) == ["One", "Two", "one", "two"]


async def test_methods_and_synchronous_functions_are_handlers() -> None:
    threads: set[str] = set()

    class Mailer:
        def __init__(self) -> None:
            self.sent: list[str] = []

        @subscribe(Placed, group="mail")
        async def placed(self, event: Placed, ctx: Context) -> None:
            self.sent.append(event.order)

        @subscribe(Placed, group="print")
        def printed(self, event: Placed, ctx: Context) -> None:
            threads.add(threading.current_thread().name)
            self.sent.append(ctx.idempotency_key)

    mailer = Mailer()
    async with EventBus("memory://", storage="sqlite://", handlers=[mailer]) as bus:
        await bus.publish(Placed(order="A-1"))
    assert "A-1" in mailer.sent
    assert any(key.startswith("print:") for key in mailer.sent)
    assert all(name.startswith("eventbus-print") for name in threads)


@pytest.mark.parametrize("failing", [False, True])
async def test_a_batch_handler_gets_what_the_batch_has_and_one_by_one_finds_the_guilty(
    failing: bool,
) -> None:
    sizes: list[int] = []
    seen: list[int] = []

    @subscribe(
        Placed, group=Group("stats", lanes=1, retry=RetryPolicy(in_place=0, parked=())), batch=True
    )
    async def stats(events: Sequence[Placed], ctx: Context) -> None:
        sizes.append(len(events))
        if failing and any(event.cents == 7 for event in events):
            raise ValueError("seven")
        seen.extend(event.cents for event in events)

    async with EventBus("memory://", storage="sqlite://", handlers=[stats]) as bus:
        async with bus.transaction() as tx:
            for number in range(20):
                await tx.publish(Placed(order=f"A-{number}", cents=number))
        await bus.until_idle()
        letters = await bus.dead_letters.list()
    assert sorted(seen) == [number for number in range(20) if not (failing and number == 7)]
    assert len(letters) == failing
    assert max(sizes) > 1


async def test_a_filter_says_no_and_the_message_is_done() -> None:
    seen: list[int] = []

    @subscribe(Placed, group="large", filter=lambda event: event.cents > 10)
    async def large(event: Placed) -> None:
        seen.append(event.cents)

    async with EventBus("memory://", storage="sqlite://", handlers=[large]) as bus:
        for cents in (5, 15):
            await bus.publish(Placed(order="A", cents=cents))
        await bus.until_idle()
        assert await bus.parked.list() == []
    assert seen == [15]


async def test_a_handler_that_hangs_is_ended_by_its_timeout() -> None:
    group = Group("slow", timeout=timedelta(seconds=0.1), retry=RetryPolicy(in_place=0, parked=()))
    seen: list[str] = []

    @subscribe(Placed, group=group)
    async def hang(event: Placed) -> None:
        if event.order == "hangs":
            await asyncio.Event().wait()
        seen.append(event.order)

    async with EventBus("memory://", storage="sqlite://", handlers=[hang]) as bus:
        await bus.publish(Placed(order="hangs"))
        await bus.publish(Placed(order="goes on"))
        await bus.until_idle()
        letters = await bus.dead_letters.list()
    assert [row["code"] for row in letters] == ["EB4103"]
    assert seen == ["goes on"]


async def test_a_command_has_its_answer_checked_and_a_rejection_is_no_failure() -> None:
    seen: list[str] = []
    group = Group("payments", retry=RetryPolicy(in_place=0, parked=()))

    @handles(Charge, group=group)
    async def charge(command: Charge, ctx: Context) -> Charged:
        await ctx.sql.execute("INSERT INTO charges (id) VALUES ($1)", command.order)
        seen.append(command.order)
        if command.order == "declined":
            raise Reject(Declined())
        if command.order == "wrong":
            return Declined()  # type: ignore[return-value]  # the mistake under test
        return Charged(order=command.order)

    async with EventBus("memory://", storage="sqlite://", handlers=[charge]) as bus:
        async with bus.transaction() as tx:
            await tx.sql.execute("CREATE TABLE charges (id text)")
            await tx.send(Charge(order="fine"))
        for order in ("declined", "wrong"):
            await bus.send(Charge(order=order))
        await bus.until_idle()
        letters = await bus.dead_letters.list()
        async with bus.transaction() as tx:
            charges = await tx.sql.fetch("SELECT id FROM charges")
    assert [row["id"] for row in charges] == ["fine"]
    assert [row["key"] for row in letters] == ["wrong"]
    assert "EB4109" in letters[0]["error"]


async def test_commands_are_sent_and_events_are_published() -> None:
    async with EventBus("memory://") as bus:
        wrong: Any = bus
        for attempt in (
            wrong.publish(Charge(order="A")),
            wrong.send(Placed(order="A")),
            wrong.publish("user.created"),
            wrong.publish(Placed(order="A"), {"order": "B"}),
        ):
            with pytest.raises(WiringError):
                await attempt


async def test_outside_a_transaction_there_is_no_sql_and_no_delay() -> None:
    errors: list[str] = []

    @subscribe(Placed, group="g")
    async def handler(event: Placed, ctx: Context) -> None:
        try:
            await ctx.sql.execute("SELECT 1")
        except NoTransactionError as error:
            errors.append(error.code)

    async with EventBus("memory://", handlers=[handler]) as bus:
        await bus.publish(Placed(order="A"))
        with pytest.raises(WiringError) as delayed:
            await bus.publish(Placed(order="A"), delay=timedelta(seconds=1))
        with pytest.raises(NoTransactionError):
            async with bus.transaction():
                pass
    assert delayed.value.code == "EB1105"
    assert errors == ["EB4105"]


async def test_a_bus_that_is_not_entered_says_so() -> None:
    bus = EventBus("memory://")
    with pytest.raises(ConfigurationError) as caught:
        await bus.publish(Placed(order="A"))
    assert caught.value.code == "EB1007"
    async with bus:
        with pytest.raises(ConfigurationError):
            await bus.__aenter__()
        with pytest.raises(WiringError):
            bus.subscribe("user.created", lambda what, ctx: None)  # type: ignore[arg-type, return-value]  # refused before it is looked at
    async with bus:
        await bus.publish(Placed(order="A"))


async def test_what_is_too_large_or_has_a_forbidden_header_is_refused() -> None:
    transport = MemoryTransport(MemoryBroker(), max_body=100)
    async with EventBus(transport) as bus:
        with pytest.raises(LimitError) as large:
            await bus.publish("user.created", {"text": "x" * 200})
        for name in ("Upper", "id", "sagaid", "with-hyphen", "x" * 21):
            with pytest.raises(LimitError) as header:
                await bus.publish(Placed(order="A"), headers={name: "v"})
            assert header.value.code == "EB3002"
    assert large.value.code == "EB3001"


async def test_middleware_wraps_each_call_in_order() -> None:
    seen: list[str] = []

    def named(name: str) -> Any:
        async def middleware(invocation: Invocation, call_next: Any) -> None:
            seen.append(f"{name} before {getattr(invocation.handler, '__name__', '?')}")
            await call_next(invocation)
            seen.append(f"{name} after")

        return middleware

    @subscribe(Placed, group="g")
    async def handler(event: Placed) -> None:
        seen.append("handled")

    bus = EventBus("memory://", handlers=[handler], middleware=[named("outer"), named("inner")])
    async with bus:
        await bus.publish(Placed(order="A"))
    assert seen == [
        "outer before handler",
        "inner before handler",
        "handled",
        "inner after",
        "outer after",
    ]


async def test_a_delayed_message_comes_later_and_does_not_hold_its_key() -> None:
    seen: list[int] = []

    @subscribe(Placed, group="g")
    async def handler(event: Placed) -> None:
        seen.append(event.cents)

    clock = HandClock()
    storage = SqliteStorage(now=clock)
    async with EventBus("memory://", storage=storage, handlers=[handler]) as bus:
        await bus.publish(Placed(order="A", cents=1), delay=timedelta(seconds=10))
        await bus.publish(Placed(order="A", cents=2))
        await bus.until_idle()
        assert seen == [2]
        await clock.advance(10)
        async with asyncio.timeout(30):
            while len(seen) < 2:
                await bus.until_idle()
    assert seen == [2, 1]


async def test_slow_outside_work_runs_without_a_transaction_and_keys_at_once() -> None:
    running = asyncio.Barrier(2)
    keys: list[str] = []

    @subscribe(Placed, group=Group("calls", transactional=False, lanes=1))
    async def call(event: Placed, ctx: Context) -> None:
        async with asyncio.timeout(30):
            await running.wait()
        keys.append(ctx.idempotency_key)
        await ctx.publish(Billed(order=event.order))

    billed: list[str] = []

    @subscribe(Billed, group="mail")
    async def mail(event: Billed) -> None:
        billed.append(event.order)

    async with EventBus("memory://", storage="sqlite://", handlers=[call, mail]) as bus:
        async with bus.transaction() as tx:
            await tx.publish(Placed(order="A"))
            await tx.publish(Placed(order="B"))
    assert sorted(billed) == ["A", "B"]
    assert len(set(keys)) == 2


async def test_without_a_storage_a_failing_message_goes_to_the_dead_letter_topic() -> None:
    broker = MemoryBroker()
    seen: list[int] = []
    policy = RetryPolicy(in_place=1, parked=(timedelta(seconds=0.01),))

    @subscribe(Placed, group=Group("g", retry=policy))
    async def handler(event: Placed) -> None:
        seen.append(event.cents)
        if event.cents == 1:
            raise ValueError("no")

    async with EventBus(MemoryTransport(broker), handlers=[handler]) as bus:
        await bus.publish(Placed(order="A", cents=1))
        await bus.publish(Placed(order="A", cents=2))
        await bus.until_idle()
        letters = broker.published("bus.g.dlq")
    assert seen == [1, 1, 1, 1, 2], "two attempts, each once more in place; the key waits"
    headers = letters[0].headers
    assert headers["native:eventbus-dead-reason"] == "exhausted"
    assert headers["native:eventbus-dead-attempts"] == "2"
    assert headers["native:eventbus-dead-error-type"] == "ValueError"
    assert headers["native:eventbus-dead-origin"].startswith("memory:bus/")


@both
async def test_what_cannot_be_read_is_quarantined_as_it_came(
    storage: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    broker = MemoryBroker()
    seen: list[str] = []

    @subscribe(Placed, group="g")
    async def handler(event: Placed) -> None:
        seen.append(event.order)

    def raw(number: int, payload: bytes, **headers: str) -> Message:
        return Message(
            id=f"foreign-{number}",
            type="bus.placed",
            source="/foreign",
            topic="bus",
            payload=payload,
            key=f"K-{number}",
            headers=headers,
        )

    bodies = [b"{", b"[]", b'{"order": 1, "cents": "x"}', b"\xff\xfe"]
    async with EventBus(MemoryTransport(broker), storage=storage, handlers=[handler]) as bus:
        await bus.publish(Placed(order="fine"))
        for number, body in enumerate(bodies):
            broker.inject("bus", raw(number, body))
        broker.inject("bus", raw(8, b"{}", dataschema="urn:eventbus:schema:bus.placed:7"))
        broker.inject("bus", raw(9, b"raw"), malformed="no ce-id header")
        await bus.until_idle()
        if storage is None:
            found = [letter.payload for letter in broker.published("bus.g.dlq")]
        else:
            letters = await bus.dead_letters.list()
            assert {row["reason"] for row in letters} == {"quarantined"}
            assert {row["code"] for row in letters} == {"EB3102", "EB3101", "EB3104"}
            found = [row["payload"] for row in letters]
    assert sorted(found) == sorted([*bodies, b"{}", b"raw"])
    assert seen == ["fine"]


async def test_a_type_that_nobody_wants_is_not_ours() -> None:
    broker = MemoryBroker()

    @subscribe(Placed, group="g")
    async def handler(event: Placed) -> None: ...

    async with EventBus(MemoryTransport(broker), storage="sqlite://", handlers=[handler]) as bus:
        await bus.publish("bus.something-else", {})
        await bus.until_idle()
        assert await bus.dead_letters.list() == []
        assert broker.unacked("g") == 0


@pytest.mark.parametrize("scheme", ["amqp", "kafka"])
async def test_a_client_with_a_storage_publishes_while_the_broker_is_away(
    scheme: str, unused_tcp_port: int
) -> None:
    away = f"{scheme}://127.0.0.1:{unused_tcp_port}"
    bus = EventBus(away, storage="sqlite://", service="shop")
    async with bus.client():
        await bus.publish("shop.placed", {"order": "A-1"}, key="A-1")
        assert [row["key"] for row in await bus.outbox.list()] == ["A-1"]
        assert (await bus.health()).causes == ["not running"], "and nothing of the broker"
    with pytest.raises(TransportError) as caught:
        async with EventBus(away, service="shop").client():
            pass
    assert caught.value.code == "EB2001"


async def test_health_names_what_runs_and_what_is_wrong() -> None:
    @subscribe(Placed, group="g")
    async def handler(event: Placed) -> None: ...

    bus = EventBus("memory://", storage="sqlite://", handlers=[handler])
    assert not (await bus.health()).ready
    async with bus:
        health = await bus.health()
        assert health.ready
        assert health.services["consumer:g"] == "running"
    description = await bus.describe()
    assert {finding.code for finding in description.findings} >= {"EB1102", "EB1112", "EB1111"}


async def test_until_idle_gives_up_after_its_time() -> None:
    end = asyncio.Event()

    @subscribe(Placed, group="g")
    async def handler(event: Placed) -> None:
        await end.wait()

    async with EventBus("memory://", handlers=[handler]) as bus:
        await bus.publish(Placed(order="A"))
        with pytest.raises(TimeoutError):
            await bus.until_idle(at_most=timedelta(seconds=0.1))
        end.set()
