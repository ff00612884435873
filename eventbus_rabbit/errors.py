"""Errors of the client -> two of the adapter -> `TransportError`; nothing else passes."""

import asyncio
import errno
import os
import re
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from aiormq import exceptions as amqp

from eventbus.errors import TransportError

R = TypeVar("R")


class BrokenError(Exception):
    """The channel or the connection is of no use any more: make a new one; stays in the adapter."""


class RefusedError(Exception):
    """The broker says no, and will say so again; stays in the adapter."""

    def __init__(self, code: str, what: str, why: str, next: str) -> None:
        super().__init__(f"{what}: {why}")
        self.code = code
        self.what = what
        self.why = why
        self.next = next

    def public(self, where: str) -> TransportError:
        """The same for users."""
        return TransportError(self.code, self.what, where=where, why=self.why, next=self.next)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a class of the client's errors means."""

    code: str
    what: str
    next: str


CREDENTIALS = Rule(
    "EB2201",
    "RabbitMQ refuses the user, its password or the virtual host",
    "mend user, password and vhost of the URL | rabbitmqctl list_permissions -p VHOST",
)
DIFFERENT = Rule(
    "EB2202",
    "a queue or exchange exists with other arguments",
    "delete it once it is empty, or take the name or the settings that fit",
)
NO_PLUGIN = Rule(
    "EB2203",
    "the broker does not understand what a group with shards needs",
    "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange",
)
FORBIDDEN = Rule(
    "EB2204",
    "the user has no right to do this on the broker",
    "grant it: rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ",
)
MISSING = Rule(
    "EB2205",
    "a queue or exchange is missing",
    "let declare=true make it, or apply the plan of a transport whose user may",
)
LOCKED = Rule(
    "EB2206",
    "a queue belongs to another connection alone",
    "take another group name: the queue is exclusive",
)

OPENING = {"Connection.OpenOk", "Connection.Close"}  # the client hides the code of this refusal
RULES: tuple[tuple[type[Exception], Rule], ...] = (
    (amqp.ProbableAuthenticationError, CREDENTIALS),
    (amqp.AuthenticationError, CREDENTIALS),
    (amqp.ConnectionNotAllowed, CREDENTIALS),
    (amqp.ConnectionCommandInvalid, NO_PLUGIN),
    (amqp.ChannelPreconditionFailed, DIFFERENT),
    (amqp.ChannelAccessRefused, FORBIDDEN),
    (amqp.ChannelNotFoundEntity, MISSING),
    (amqp.ChannelLockedResource, LOCKED),
)


def understood(error: BaseException) -> BrokenError | RefusedError:
    """What it means for us."""
    if isinstance(error, BrokenError | RefusedError):
        return error
    text = text_of(error)
    if isinstance(error, amqp.InvalidFrameError) and set(re.findall(r"[\w.]+", text)) >= OPENING:
        text = "the virtual host is missing or down, or the user may not use it"
        return RefusedError(CREDENTIALS.code, CREDENTIALS.what, text, CREDENTIALS.next)
    for kind, rule in RULES:
        if isinstance(error, kind):
            return RefusedError(rule.code, rule.what, text, rule.next)
    return BrokenError(text)


def text_of(error: BaseException) -> str:
    """One line; the client's `str` is often empty, or hides the reason behind a number."""
    parts = [_text(part) for part in error.args if part is not None]
    if any("[SSL" in part for part in parts):  # the numbers of TLS are none of the system
        parts = [str(part) for part in error.args if isinstance(part, str)]
        if "WRONG_VERSION_NUMBER" in parts[0]:
            parts.append("the port does not speak TLS: amqp:// there, or the port of TLS (5671)")
    return " ".join((" ".join(filter(None, parts)) or type(error).__name__).split())


def _text(part: object) -> str:
    if isinstance(part, int):
        return f"{os.strerror(part)}:" if part in errno.errorcode else ""
    return str(part)


async def guarded(call: Awaitable[R], seconds: float) -> R:
    """Await the client with a deadline.

    Cancelling passes, also where the client turns it into an error of its own or swallows it while
    it closes. A CancelledError that nobody asked for is the client's way to say that the connection
    is lost (T1, measured).

    Raises:
        BrokenError: time is over, or the channel or connection is gone.
        RefusedError: the broker refused.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()

    def cancelled() -> bool:
        return task is not None and task.cancelling() > before

    try:
        async with asyncio.timeout(seconds):
            answer = await call
    except TimeoutError as error:
        raise BrokenError(f"no answer within {seconds:g} s") from error
    except asyncio.CancelledError as error:
        if cancelled():
            raise
        raise BrokenError("the connection was lost") from error
    except Exception as error:  # the border: the client fails futures with any class, Exception too
        if cancelled():
            raise asyncio.CancelledError from error
        raise understood(error) from error
    if cancelled():
        raise asyncio.CancelledError
    return answer


def unreachable(place: str, why: str) -> TransportError:
    """EB2001."""
    return TransportError(
        "EB2001",
        f"cannot reach RabbitMQ at {place}",
        where=f"transport {place}",
        why=why,
        next="eventbus doctor | start the broker | mend the URL",
    )


def public(error: BrokenError | RefusedError, place: str) -> TransportError:
    """For users, whichever it is."""
    if isinstance(error, RefusedError):
        return error.public(f"transport {place}")
    return unreachable(place, str(error))
