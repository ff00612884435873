"""Every error of the client becomes one of ours; cancelling stays cancelling."""

import asyncio
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import aio_pika.exceptions
import aiormq.exceptions
import pamqp.exceptions
import pytest
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from eventbus.errors import TransportError
from eventbus_rabbit.errors import BrokenError, RefusedError, guarded, public, understood

RETURNED = DeliveredMessage(
    delivery=Basic.Return(312, "NO_ROUTE", "shop", "shop.placed"),
    header=ContentHeader(),
    body=b"",
    channel=None,  # type: ignore[arg-type]  # nobody looks at it
)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "DeliveryError": (None, Basic.Nack(1)),
    "PublishError": (RETURNED, Basic.Return(312, "NO_ROUTE", "shop", "shop.placed")),
}


def classes() -> Iterator[type[Exception]]:
    modules: tuple[ModuleType, ...] = (
        aio_pika.exceptions,
        aiormq.exceptions,
        pamqp.exceptions,
    )
    found = {
        each
        for module in modules
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, Exception)
    }
    others = (OSError, ConnectionResetError, RuntimeError, ValueError, EOFError, Exception)
    yield from sorted({*found, *others}, key=lambda each: f"{each.__module__}.{each.__name__}")


@pytest.mark.parametrize("kind", list(classes()))
async def test_no_class_of_the_client_passes(kind: type[Exception]) -> None:
    error = kind(*ARGUMENTS.get(kind.__name__, ("what it says",)))

    async def fail() -> None:
        raise error

    with pytest.raises((BrokenError, RefusedError)) as caught:
        await guarded(fail(), 1.0)
    assert caught.value.__cause__ is error
    assert str(caught.value)
    assert isinstance(caught.value, BrokenError | RefusedError)
    told = public(caught.value, "amqp://localhost:5672/%2F")
    assert isinstance(told, TransportError)
    assert all((told.code, told.what, told.where, told.why, told.next))


async def test_an_answer_that_does_not_come_is_a_broken_connection() -> None:
    with pytest.raises(BrokenError, match="no answer within"):
        await guarded(asyncio.Event().wait(), 0.01)


async def test_a_cancellation_that_nobody_asked_for_is_a_broken_connection() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(asyncio.CancelledError())
    with pytest.raises(BrokenError, match="lost"):
        await guarded(future, 1.0)


@pytest.mark.parametrize("how", ["passes", "is swallowed", "is made an error"])
async def test_cancelling_a_task_always_cancels_it(how: str) -> None:
    waiting = asyncio.Event()

    async def call() -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if how == "passes":
                raise
            if how == "is made an error":
                raise aiormq.exceptions.ChannelClosed(200, "closed") from None

    task = asyncio.create_task(guarded(call(), 10.0), name="test")
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (aiormq.exceptions.ProbableAuthenticationError("ACCESS_REFUSED"), "EB2201"),
        (aiormq.exceptions.ConnectionNotAllowed("vhost"), "EB2201"),
        (
            aiormq.exceptions.InvalidFrameError(
                "Expected one of ['Connection.OpenOk'], got <Connection.Close object at 0x7f>"
            ),
            "EB2201",
        ),
        (aiormq.exceptions.ChannelPreconditionFailed("inequivalent arg"), "EB2202"),
        (aiormq.exceptions.ConnectionCommandInvalid("unknown exchange type"), "EB2203"),
        (aiormq.exceptions.ChannelAccessRefused("no"), "EB2204"),
        (aiormq.exceptions.ChannelNotFoundEntity("no queue"), "EB2205"),
        (aiormq.exceptions.ChannelLockedResource("exclusive"), "EB2206"),
    ],
)
def test_what_the_broker_refuses_has_a_code_and_a_way_out(error: Exception, code: str) -> None:
    refused = understood(error)
    assert isinstance(refused, RefusedError)
    assert refused.code == code
    assert refused.next


def test_numbers_of_the_system_are_told_in_words() -> None:
    error = aiormq.exceptions.AMQPConnectionError(111, "Connect call failed ('127.0.0.1', 1)")
    assert str(understood(error)) == "Connection refused: Connect call failed ('127.0.0.1', 1)"


def test_numbers_of_tls_are_none_of_the_system() -> None:
    text = "[SSL: CERTIFICATE_VERIFY_FAILED] unable to get local issuer certificate"
    assert str(understood(aiormq.exceptions.AMQPConnectionError(1, text))) == text
    text = "[SSL: WRONG_VERSION_NUMBER] wrong version number"
    told = str(understood(aiormq.exceptions.AMQPConnectionError(1, text)))
    assert told.startswith(f"{text} the port does not speak TLS")
