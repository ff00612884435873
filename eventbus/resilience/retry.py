"""What follows from a failure: again at once, again later, or a dead letter (B7)."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from hashlib import blake2s
from random import Random
from traceback import walk_tb
from types import FrameType
from typing import Literal

from eventbus.errors import CodecError, HandlerTimeoutError
from eventbus.handler import DeadLetter, Reject, Retry, RetryPolicy
from eventbus.personal import without
from eventbus.storage.parking import Failure

_WHY = "  why   "  # a line of an error of ours
IN_PLACE_CAPS_SECONDS = (0.05, 0.25)  # the last one for every further wait
IN_PLACE_BUDGET_SECONDS = 1.0  # a transaction is open meanwhile
TEXT_LIMIT_BYTES = 8192

Reason = Literal["failed", "exhausted", "rejected", "quarantined"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a message that failed: parked for `delay`, or with None a dead letter."""

    delay: timedelta | None
    reason: Reason
    code: str


async def attempts_in_place(
    call: Callable[[], Awaitable[None]],
    policy: RetryPolicy,
    *,
    may_retry: Callable[[Exception], bool],
) -> None:
    """Run `call`, and up to `policy.in_place` times more if it fails.

    Waits between zero and 50 ms, then 250 ms; no attempt starts later than 1 s after the first
    failure. Answers of a handler, codec errors and `policy.dead_letter_on` are never tried again;
    cancellation passes.

    Args:
        call: one attempt, with whatever it needs around it: a savepoint.
        policy: `in_place` and `dead_letter_on` of it.
        may_retry: False for further errors that another attempt cannot help.

    Raises:
        Exception: the one of the last attempt.
    """
    try:
        await call()
    except Exception as error:
        first = error
    else:
        return
    await again_in_place(call, policy, first, may_retry=may_retry)


async def again_in_place(
    call: Callable[[], Awaitable[None]],
    policy: RetryPolicy,
    first: Exception,
    *,
    may_retry: Callable[[Exception], bool],
) -> None:
    """What `attempts_in_place` does after its first attempt failed with `first`.

    Raises:
        Exception: the one of the last attempt.
    """
    if policy.in_place < 1 or _is_final(first, policy) or not may_retry(first):
        raise first
    await _again(call, policy, may_retry, first)


async def _again(
    call: Callable[[], Awaitable[None]],
    policy: RetryPolicy,
    may_retry: Callable[[Exception], bool],
    first: Exception,
) -> None:
    # tenacity costs 44 ms to import and an object per use: only who fails pays for it
    from tenacity import (
        AsyncRetrying,
        retry_if_exception,
        stop_after_attempt,
        stop_before_delay,
        wait_chain,
        wait_random,
    )

    def again(error: BaseException) -> bool:
        return isinstance(error, Exception) and not _is_final(error, policy) and may_retry(error)

    async for attempt in AsyncRetrying(
        sleep=asyncio.sleep,
        stop=stop_after_attempt(1 + policy.in_place) | stop_before_delay(IN_PLACE_BUDGET_SECONDS),
        wait=wait_chain(*(wait_random(0, cap) for cap in IN_PLACE_CAPS_SECONDS)),
        retry=retry_if_exception(again),
        reraise=True,
    ):
        with attempt:
            if attempt.retry_state.attempt_number == 1:
                raise first  # this attempt is over: tenacity only gets to see it
            await call()


def _is_final(error: Exception, policy: RetryPolicy) -> bool:
    return isinstance(error, (Retry, DeadLetter, Reject, CodecError, *policy.dead_letter_on))


def wait_after(policy: RetryPolicy, attempt: int, *, random: Random) -> timedelta | None:
    """How long a message stays parked after its n-th failed attempt, from 1; None: none is left.

    The policy's wait, 20 % more or less, so that what failed together does not return together.
    """
    if attempt > len(policy.parked):
        return None
    return policy.parked[attempt - 1] * random.uniform(0.8, 1.2)


def verdict_of(error: Exception, policy: RetryPolicy, attempt: int, random: Random) -> Verdict:
    """What the policy, or the handler's own answer, makes of the n-th failed attempt, from 1."""
    if isinstance(error, Retry):
        return Verdict(error.after, "failed", "EB4101")
    if isinstance(error, CodecError):
        return Verdict(None, "quarantined", error.code)
    if isinstance(error, (DeadLetter, Reject, *policy.dead_letter_on)):
        return Verdict(None, "rejected", "EB4102")
    delay = wait_after(policy, attempt, random=random)
    code = "EB4101" if delay is not None else "EB4102"
    if isinstance(error, HandlerTimeoutError):
        code = "EB4103"
    return Verdict(delay, "exhausted" if delay is None else "failed", code)


def failure_of(error: Exception, verdict: Verdict, *, hidden: Sequence[str] = ()) -> Failure:
    """The failure as it is stored: without secrets, in characters that every database takes.

    `hidden` are texts that it must not quote: personal data of the message.
    """
    return Failure(
        reason=verdict.reason,
        code=verdict.code,
        type=_type_name(error),
        text=_text_of(error, hidden),
        fingerprint=_fingerprint_of(error),
    )


def told(failure: Failure) -> str:
    """What it failed with, in a line of the log: its type, and of an error of ours its reason."""
    return f"{failure.type} {in_a_line(failure.text)}"


def in_a_line(text: str) -> str:
    """The first line of an error; of one of ours its reason too."""
    first, *rest = text.split("\n")
    why = next((line[len(_WHY) :] for line in rest if line.startswith(_WHY)), "")
    return first[:200] + (f": {why[:200]}" if why else "")


def _type_name(error: Exception) -> str:
    cls = type(error)
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"


def _text_of(error: Exception, hidden: Sequence[str] = ()) -> str:
    try:
        text = str(error)
    except Exception as broken:  # the author's __str__: a failure must be stored nevertheless
        text = f"(its text cannot be read: {type(broken).__name__})"
    # cut twice: before, or a body of megabytes is searched; after, because it is bytes that count
    told = without(text[: 2 * TEXT_LIMIT_BYTES], hidden)
    clean = redact(_UNSTORABLE.sub("\ufffd", told))
    return clean.encode()[:TEXT_LIMIT_BYTES].decode(errors="ignore")


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

# Bounded repeats: these run over text that strangers may have written. A port is no password.
_URL_PASSWORD = re.compile(r"(://[^\s/:@]{0,128}:)(?!\d{1,5}(?:[/?#,\s]|$))\S{1,512}@")
_NAMED_SECRET = re.compile(
    r"((?:password|passwd|pwd|secret|api_?key|access_?token)[\"']?\s{0,3}[=:]\s{0,3})(?!\*\*\*)"
    r"(?:\"[^\"]{0,512}\"|'[^']{0,512}'|[^\s&]{1,512})",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Text without passwords in URLs (`scheme://user:***@`) and in settings (`password=***`)."""
    return _NAMED_SECRET.sub(r"\1***", _URL_PASSWORD.sub(r"\1***@", text))


def _fingerprint_of(error: Exception) -> str:
    what = f"{_type_name(error)} {_application_frame(error)}"
    return blake2s(what.encode(errors="replace"), digest_size=6).hexdigest()


def _application_frame(error: Exception) -> str:
    """`module:function` of the innermost frame that is neither ours, a library's nor Python's.

    Without line numbers: the same fault keeps its fingerprint across releases.
    """
    found = ""
    for frame, _ in walk_tb(error.__traceback__):
        if is_application(frame):
            found = f"{_module_of(frame)}:{frame.f_code.co_qualname}"
    return found


def is_application(frame: FrameType) -> bool:
    """Whether its code is neither ours, a library's nor Python's."""
    return not _module_of(frame).startswith(_OURS) and not _is_library(frame.f_code.co_filename)


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


_OURS = ("eventbus.", "eventbus_kafka.", "eventbus_rabbit.")
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep


@lru_cache(maxsize=1024)
def _is_library(filename: str) -> bool:
    parts = filename.replace("\\", "/").split("/")
    return (
        filename.startswith(("<frozen ", _STANDARD_LIBRARY))
        or "site-packages" in parts
        or "dist-packages" in parts
    )
