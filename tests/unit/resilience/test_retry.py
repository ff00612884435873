"""Again at once, again later, or never: one place knows what a failure means."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.errors import DecodeError, HandlerTimeoutError
from eventbus.event import Rejection
from eventbus.handler import DeadLetter, Reject, Retry, RetryPolicy
from eventbus.resilience import (
    RateLimit,
    Verdict,
    attempts_in_place,
    failure_of,
    redact,
    told,
    verdict_of,
    wait_after,
)

SECOND = timedelta(seconds=1)


class Sold(Rejection, type="test.sold"):
    pass


class Flaky:
    """Raises the errors one after another, then succeeds."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)


def always(_: Exception) -> bool:
    return True


def decode_error() -> DecodeError:
    return DecodeError("EB3102", "does not validate", where="x", why="y", next="z")


def timeout_error() -> HandlerTimeoutError:
    return HandlerTimeoutError("EB4103", "took too long", where="x", why="y", next="z")


async def test_a_success_is_called_once() -> None:
    call = Flaky()
    await attempts_in_place(call, RetryPolicy(), may_retry=always)
    assert call.calls == 1


async def test_two_failures_are_mended_by_the_third_attempt() -> None:
    call = Flaky(ValueError("one"), ValueError("two"))
    await attempts_in_place(call, RetryPolicy(), may_retry=always)
    assert call.calls == 3


async def test_the_last_error_comes_out_itself() -> None:
    errors = [ValueError("one"), ValueError("two"), ValueError("three")]
    call = Flaky(*errors)
    with pytest.raises(ValueError, match="three") as raised:
        await attempts_in_place(call, RetryPolicy(), may_retry=always)
    assert raised.value is errors[2]
    assert call.calls == 3


FINAL: list[Callable[[], Exception]] = [
    lambda: Retry(after=SECOND),
    DeadLetter,
    lambda: Reject(Sold()),
    decode_error,
    lambda: KeyError("listed"),
]


@pytest.mark.parametrize("make", FINAL)
async def test_an_answer_is_never_tried_again_in_place(make: Callable[[], Exception]) -> None:
    policy = RetryPolicy(dead_letter_on=(LookupError,))
    for before in ((), (ValueError(),)):
        error = make()
        call = Flaky(*before, error)
        with pytest.raises(type(error)):
            await attempts_in_place(call, policy, may_retry=always)
        assert call.calls == 1 + len(before)


async def test_the_caller_may_refuse_another_attempt() -> None:
    call = Flaky(ValueError(), ZeroDivisionError(), ValueError())
    with pytest.raises(ZeroDivisionError):
        await attempts_in_place(
            call, RetryPolicy(), may_retry=lambda error: not isinstance(error, ZeroDivisionError)
        )
    assert call.calls == 2


async def test_no_attempts_in_place_when_the_policy_has_none() -> None:
    call = Flaky(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await attempts_in_place(call, RetryPolicy(in_place=0), may_retry=always)
    assert call.calls == 1


@pytest.mark.parametrize("before", [(), (ValueError(),)])
async def test_cancellation_passes_at_once(before: tuple[Exception, ...]) -> None:
    call = Flaky(*before, asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await attempts_in_place(call, RetryPolicy(), may_retry=always)
    assert call.calls == 1 + len(before)


async def test_cancelling_while_it_waits_ends_it() -> None:
    failed = asyncio.Event()

    async def call() -> None:
        failed.set()
        raise ValueError

    task = asyncio.create_task(
        attempts_in_place(call, RetryPolicy(in_place=1000), may_retry=always), name="test:retry"
    )
    await failed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_all_attempts_in_place_start_within_a_second() -> None:
    began = time.monotonic()
    starts: list[float] = []

    async def call() -> None:
        starts.append(time.monotonic() - began)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await attempts_in_place(call, RetryPolicy(in_place=1000), may_retry=always)
    assert 2 < len(starts) < 1000
    assert max(starts) < 1.2  # the budget, and a slow machine


def test_tenacity_is_not_loaded_before_a_failure() -> None:
    program = """
import asyncio, sys
from eventbus.handler import RetryPolicy
from eventbus.resilience import attempts_in_place
async def fine(): pass
asyncio.run(attempts_in_place(fine, RetryPolicy(), may_retry=lambda error: True))
sys.exit("tenacity" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@given(attempt=st.integers(1, 10), seed=st.integers())
def test_waits_stay_near_the_policy_and_end_with_it(attempt: int, seed: int) -> None:
    policy = RetryPolicy()
    wait = wait_after(policy, attempt, random=Random(seed))
    if attempt > len(policy.parked):
        assert wait is None
    else:
        assert wait is not None
        assert 0.8 <= wait / policy.parked[attempt - 1] <= 1.2


VERDICTS: list[tuple[Callable[[], Exception], int, str, str]] = [
    (ValueError, 4, "failed", "EB4101"),
    (ValueError, 5, "exhausted", "EB4102"),
    (timeout_error, 4, "failed", "EB4103"),
    (timeout_error, 5, "exhausted", "EB4103"),
    (DeadLetter, 1, "rejected", "EB4102"),
    (lambda: Reject(Sold()), 1, "rejected", "EB4102"),
    (lambda: KeyError("listed"), 1, "rejected", "EB4102"),
    (decode_error, 1, "quarantined", "EB3102"),
    (lambda: Retry(after=SECOND), 99, "failed", "EB4101"),
]


@pytest.mark.parametrize(("make", "attempt", "reason", "code"), VERDICTS)
def test_a_verdict_follows_from_the_error_and_the_policy(
    make: Callable[[], Exception], attempt: int, reason: str, code: str
) -> None:
    policy = RetryPolicy(dead_letter_on=(LookupError,))
    verdict = verdict_of(make(), policy, attempt, Random(1))
    assert (verdict.reason, verdict.code) == (reason, code)
    assert (verdict.delay is not None) == (reason == "failed")


def test_a_handler_that_asks_for_a_retry_gets_its_own_wait() -> None:
    assert verdict_of(Retry(after=SECOND), RetryPolicy(), 1, Random(1)).delay == SECOND


FAILED = Verdict(SECOND, "failed", "EB4101")


def caught(fail: Callable[[], object]) -> Exception:
    try:
        fail()
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


def test_a_failure_names_type_code_and_reason() -> None:
    failure = failure_of(decode_error(), Verdict(None, "quarantined", "EB3102"))
    assert failure.type == "eventbus.errors.DecodeError"
    assert (failure.reason, failure.code) == ("quarantined", "EB3102")
    assert failure.text.startswith("EB3102 does not validate")
    assert failure_of(ValueError("x"), FAILED).type == "ValueError"


@given(st.text(st.characters(), max_size=20_000))
def test_the_text_of_a_failure_fits_every_database(text: str) -> None:
    stored = failure_of(ValueError(text), FAILED).text
    assert "\0" not in stored
    assert len(stored.encode()) <= 8192  # encode() refuses lone surrogates


def test_nul_surrogates_and_megabytes_are_stored_nevertheless() -> None:
    assert failure_of(ValueError("a\0b\ud800c"), FAILED).text == "a\ufffdb\ufffdc"
    assert len(failure_of(ValueError("ä" * 10_000_000), FAILED).text.encode()) == 8192


def test_an_error_without_a_readable_text_is_stored_nevertheless() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert failure_of(BrokenError(), FAILED).text == "(its text cannot be read: RuntimeError)"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("at amqp://shop:s3cret@host/vh", "at amqp://shop:***@host/vh"),
        ("redis://:s3@cr/et@host", "redis://:***@host"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("host=db password=s3cret user=x", "host=db password=*** user=x"),
        ("Password: 's3 cret', x", "Password: ***, x"),
        ('{"sasl_plain_password": "s3 cret"}', '{"sasl_plain_password": ***}'),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_secrets_are_redacted(text: str, redacted: str) -> None:
    assert redact(text) == redacted
    assert redact(redacted) == redacted


@pytest.mark.parametrize("piece", ["://a:", "password=", "password='", "://", "a:@"])
def test_redacting_hostile_text_takes_no_time_to_speak_of(piece: str) -> None:
    began = time.process_time()
    failure_of(ValueError(piece * 100_000), FAILED)
    assert time.process_time() - began < 1.0


def fails_here() -> None:
    raise ValueError("here")


def fails_there() -> None:
    raise ValueError("there")


def test_the_fingerprint_says_where_it_failed_and_not_what_it_said() -> None:
    here = failure_of(caught(fails_here), FAILED).fingerprint
    assert len(here) == 12
    assert int(here, 16) >= 0
    assert here == failure_of(caught(fails_here), FAILED).fingerprint
    assert here != failure_of(caught(fails_there), FAILED).fingerprint


def test_the_fingerprint_looks_through_libraries_to_the_application() -> None:
    import json

    def reads_one() -> None:
        json.loads("{")

    def reads_other() -> None:
        json.loads("[")

    one, other = caught(reads_one), caught(reads_other)
    assert failure_of(one, FAILED).fingerprint != failure_of(other, FAILED).fingerprint


def test_the_fingerprint_looks_through_the_framework_to_the_application() -> None:
    def limits_one() -> None:
        RateLimit(0, 1)

    def limits_other() -> None:
        RateLimit(0, 1)

    one, other = caught(limits_one), caught(limits_other)
    assert failure_of(one, FAILED).fingerprint != failure_of(other, FAILED).fingerprint


def test_an_error_without_a_frame_of_the_application_has_a_fingerprint() -> None:
    assert len(failure_of(decode_error(), FAILED).fingerprint) == 12


async def test_a_retry_in_place_does_not_change_the_fingerprint() -> None:
    async def call() -> None:
        fails_here()

    async def run(attempts: int) -> str:
        runner: Awaitable[None] = attempts_in_place(
            call, RetryPolicy(in_place=attempts), may_retry=always
        )
        try:
            await runner
        except ValueError as error:
            return failure_of(error, FAILED).fingerprint
        raise AssertionError("it did not fail")

    assert await run(0) == await run(1)


def test_the_log_is_told_what_and_why_in_a_line() -> None:
    ours = DecodeError("EB3102", "it does not validate", where="here", why="cents: int", next="x")
    verdict = Verdict(None, "quarantined", "EB3102")
    line = told(failure_of(ours, verdict))
    assert line == "eventbus.errors.DecodeError EB3102 it does not validate: cents: int"
    assert told(failure_of(ValueError("no\nsecond"), verdict)) == "ValueError no"
