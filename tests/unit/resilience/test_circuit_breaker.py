"""The circuit opens on too many failures, probes with one call, and closes on its success."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventbus.errors import CircuitOpenError, ConfigurationError
from eventbus.resilience.circuit_breaker import (
    PROBE_SECONDS,
    Circuit,
    CircuitBreaker,
    Closed,
    HalfOpen,
    Limits,
    Open,
    after_failure,
    after_start,
    after_success,
    may_call,
    ready_at,
    without_probe,
)

LIMITS = Limits(failure_ratio=0.5, minimum=20, window_seconds=10, pause_seconds=30)


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(now=clock, name="bank")


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        assert breaker.ready()
        breaker.record(ok=False)


def state(breaker: CircuitBreaker) -> str:
    return breaker.state  # a call, or mypy would hold the first answer for the last


async def fine() -> str:
    return "fine"


async def broken() -> str:
    raise ZeroDivisionError


# -- pure -----------------------------------------------------------------------------------

steps = st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=120)
circuits = st.one_of(
    st.just(Closed()),
    st.builds(Open, st.floats(0, 100)),
    st.builds(HalfOpen, st.none() | st.floats(0, 100)),
)


@given(steps)
def test_it_opens_exactly_when_the_calls_of_the_window_say_so(
    calls: list[tuple[float, bool]],
) -> None:
    circuit: Circuit = Closed()
    now, past = 0.0, list[tuple[float, bool]]()
    for wait, ok in calls:
        now += wait
        past.append((now, ok))
        circuit = (after_success if ok else after_failure)(circuit, now, LIMITS)
        first = int(now) - 9  # ten slots of a second each
        window = [was_ok for at, was_ok in past if int(at) >= first]
        failures = window.count(False)
        too_many = not ok and len(window) >= 20 and failures * 2 >= len(window)
        assert isinstance(circuit, Open) == too_many
        if too_many:
            return


@given(steps)
def test_the_window_never_grows(calls: list[tuple[float, bool]]) -> None:
    circuit: Circuit = Closed()
    now = 0.0
    for wait, _ in calls:
        now += wait
        circuit = after_success(circuit, now, LIMITS)
        assert isinstance(circuit, Closed)
        assert len(circuit.slots) <= 10


@given(circuits, st.floats(0, 200))
def test_half_open_lets_exactly_one_call_through(circuit: Circuit, now: float) -> None:
    if isinstance(circuit, Closed) or not may_call(circuit, now):
        return
    probing = after_start(circuit, now, LIMITS)
    assert isinstance(probing, HalfOpen)
    assert not may_call(probing, now)
    assert after_success(probing, now, LIMITS) == Closed()
    assert after_failure(probing, now, LIMITS) == Open(now + 30)
    assert may_call(without_probe(probing), now)


@given(st.floats(0, 100), st.floats(0, 200), st.booleans())
def test_while_it_is_open_nothing_is_counted(until: float, now: float, ok: bool) -> None:
    change = after_success if ok else after_failure
    assert change(Open(until), now, LIMITS) == Open(until)
    assert change(HalfOpen(None), now, LIMITS) == HalfOpen(None)


@given(circuits, st.floats(0, 200))
def test_nothing_waits_for_ever(circuit: Circuit, now: float) -> None:
    assert may_call(circuit, max(now, ready_at(circuit)))
    assert ready_at(after_failure(circuit, now, LIMITS)) <= max(now, 100) + 30
    assert ready_at(after_start(circuit, now, LIMITS)) <= now + PROBE_SECONDS


# -- the breaker ----------------------------------------------------------------------------


def test_a_new_circuit_is_closed(breaker: CircuitBreaker) -> None:
    assert state(breaker) == "closed"
    assert breaker.wait_seconds() == 0
    assert breaker.ready()


def test_nineteen_failures_do_not_open_it_and_twenty_do(breaker: CircuitBreaker) -> None:
    fail(breaker, 19)
    assert state(breaker) == "closed"
    fail(breaker, 1)
    assert state(breaker) == "open"
    assert not breaker.ready()
    assert breaker.wait_seconds() == 30


@pytest.mark.parametrize(("successes", "opens"), [(10, "open"), (11, "closed")])
def test_exactly_half_of_the_calls_is_enough(
    breaker: CircuitBreaker, successes: int, opens: str
) -> None:
    for _ in range(successes):
        breaker.record(ok=True)
    fail(breaker, 10)
    assert state(breaker) == opens


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=30))
def test_calls_that_went_alike_may_be_told_at_once(told: list[tuple[bool, int]]) -> None:
    at_once, singly = CircuitBreaker(now=Clock()), CircuitBreaker(now=Clock())
    for ok, calls in told:
        at_once.record(ok, calls=calls)
        for _ in range(calls):
            singly.record(ok)
        assert at_once.state == singly.state


@pytest.mark.parametrize(("later", "opens"), [(9, "open"), (10, "closed")])
def test_what_is_older_than_the_window_is_forgotten(
    breaker: CircuitBreaker, clock: Clock, later: float, opens: str
) -> None:
    fail(breaker, 19)
    clock.seconds += later
    fail(breaker, 1)
    assert state(breaker) == opens


def test_after_the_pause_one_probe_goes_and_its_success_closes(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 20)
    clock.seconds += 30
    assert state(breaker) == "half-open"
    assert [breaker.ready() for _ in range(3)] == [True, False, False]
    breaker.record(ok=True)
    assert state(breaker) == "closed"
    assert breaker.ready()


def test_a_probe_that_fails_opens_it_for_another_pause(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 20)
    clock.seconds += 30
    fail(breaker, 1)
    assert state(breaker) == "open"
    assert breaker.wait_seconds() == 30


def test_failures_of_running_calls_do_not_make_the_pause_longer(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 20)
    clock.seconds += 20
    breaker.record(ok=False)
    assert breaker.wait_seconds() == 10


def test_an_unused_probe_is_given_back(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 20)
    clock.seconds += 30
    assert breaker.ready()
    breaker.release()
    assert breaker.wait_seconds() == 0
    assert breaker.ready()


def test_a_lost_probe_is_replaced_in_the_end(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 20)
    clock.seconds += 30
    assert breaker.ready()
    assert breaker.wait_seconds() == PROBE_SECONDS
    clock.seconds += PROBE_SECONDS
    assert breaker.ready()


def test_releasing_a_closed_circuit_changes_nothing(breaker: CircuitBreaker) -> None:
    breaker.release()
    assert state(breaker) == "closed"


async def test_execute_passes_results_and_errors_through(breaker: CircuitBreaker) -> None:
    assert await breaker.execute(fine) == "fine"
    with pytest.raises(ZeroDivisionError):
        await breaker.execute(broken)


async def test_execute_refuses_while_it_is_open(breaker: CircuitBreaker) -> None:
    for _ in range(20):
        with pytest.raises(ZeroDivisionError):
            await breaker.execute(broken)
    with pytest.raises(CircuitOpenError, match="bank is open") as raised:
        await breaker.execute(fine)
    assert raised.value.code == "EB4107"
    assert "30.0 s" in raised.value.next


async def test_a_cancelled_probe_says_nothing_and_frees_its_place(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 20)
    clock.seconds += 30
    started = asyncio.Event()

    async def hangs() -> None:
        started.set()
        await asyncio.Event().wait()

    probe = asyncio.create_task(breaker.execute(hangs), name="test:probe")
    await started.wait()
    with pytest.raises(CircuitOpenError, match="half-open"):
        await breaker.execute(fine)
    probe.cancel()
    await asyncio.wait([probe])
    assert state(breaker) == "half-open"
    assert await breaker.execute(fine) == "fine"
    assert state(breaker) == "closed"


async def cancelled() -> None:
    raise asyncio.CancelledError


async def test_a_cancelled_call_is_no_failure(breaker: CircuitBreaker) -> None:
    for _ in range(30):
        with pytest.raises(asyncio.CancelledError):
            await breaker.execute(cancelled)
    assert state(breaker) == "closed"


async def test_a_call_from_before_the_outage_does_not_speak_for_the_probe(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    go_on, started = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        started.set()
        await go_on.wait()

    old = asyncio.create_task(breaker.execute(slow), name="test:old")
    await started.wait()
    fail(breaker, 20)
    clock.seconds += 30
    assert breaker.ready()
    go_on.set()
    await old
    assert state(breaker) == "half-open"


@pytest.mark.parametrize(
    "make",
    [
        lambda: CircuitBreaker(failure_ratio=0),
        lambda: CircuitBreaker(failure_ratio=1.5),
        lambda: CircuitBreaker(minimum=0),
        lambda: CircuitBreaker(window=timedelta()),
        lambda: CircuitBreaker(pause=timedelta()),
    ],
)
def test_a_breaker_that_could_not_work_is_refused(make: type[CircuitBreaker]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        make()
    assert raised.value.code == "EB1006"
