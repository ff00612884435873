"""A circuit as a value with pure transitions, and the breaker that holds one (B9)."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple, ParamSpec, TypeVar

from eventbus.errors import CircuitOpenError, ConfigurationError

SLOTS = 10  # the window moves in tenths, so that a call costs the same however many there were
PROBE_SECONDS = 60.0  # a probe without a verdict for so long is lost; above handlers' usual timeout

P = ParamSpec("P")
R = TypeVar("R")
State = Literal["closed", "half-open", "open"]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a circuit opens, and for how long; times in seconds."""

    failure_ratio: float
    minimum: int
    window_seconds: float
    pause_seconds: float


class Slot(NamedTuple):
    """The calls of a tenth of the window."""

    number: int
    calls: int
    failures: int


@dataclass(frozen=True, slots=True)
class Closed:
    """Calls go through and are counted; the slots are those of the last window, oldest first."""

    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True, slots=True)
class Open:
    """No call goes through before `until`; nothing is counted."""

    until: float


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """One call is on its way to find out; given up for lost at `lost_at`, None: there is none."""

    lost_at: float | None


Circuit = Closed | HalfOpen | Open


def may_call(circuit: Circuit, now: float) -> bool:
    """True if a call may start; it is a probe unless the circuit is closed."""
    return ready_at(circuit) <= now


def ready_at(circuit: Circuit) -> float:
    """The time from which on a call may start."""
    match circuit:
        case Open(until):
            return until
        case HalfOpen(float(lost_at)):
            return lost_at
        case _:
            return float("-inf")


def after_start(circuit: Circuit, now: float, limits: Limits) -> Circuit:
    """The circuit once a call that it allows has started."""
    if isinstance(circuit, Closed):
        return circuit
    return HalfOpen(now + max(PROBE_SECONDS, limits.pause_seconds))


def after_success(circuit: Circuit, now: float, limits: Limits, calls: int = 1) -> Circuit:
    """A probe's success closes the circuit; while it is open an old call's says nothing."""
    match circuit:
        case Closed(slots):
            return Closed(_counted(slots, now, limits, calls=calls, failures=0))
        case HalfOpen(float()):
            return Closed()
        case _:
            return circuit


def after_failure(circuit: Circuit, now: float, limits: Limits, calls: int = 1) -> Circuit:
    """Too many of them, or a probe's, open the circuit; while it is open they do not count."""
    match circuit:
        case Closed(slots):
            slots = _counted(slots, now, limits, calls=calls, failures=calls)
            return Open(now + limits.pause_seconds) if _too_many(slots, limits) else Closed(slots)
        case HalfOpen(float()):
            return Open(now + limits.pause_seconds)
        case _:
            return circuit


def without_probe(circuit: Circuit) -> Circuit:
    """The circuit after a probe ended without a verdict: the next call probes."""
    return HalfOpen(None) if isinstance(circuit, HalfOpen) else circuit


def _counted(
    slots: tuple[Slot, ...], now: float, limits: Limits, *, calls: int, failures: int
) -> tuple[Slot, ...]:
    number = int(now * SLOTS / limits.window_seconds)
    if slots and slots[-1].number == number:
        last = slots[-1]
        return (*slots[:-1], Slot(number, last.calls + calls, last.failures + failures))
    young = (slot for slot in slots if slot.number > number - SLOTS)
    return (*young, Slot(number, calls, failures))


def _too_many(slots: tuple[Slot, ...], limits: Limits) -> bool:
    calls = sum(slot.calls for slot in slots)
    failures = sum(slot.failures for slot in slots)
    return calls >= limits.minimum and failures >= limits.failure_ratio * calls


class CircuitBreaker:
    """Stops calling what fails, and finds out with one call after each pause whether it is back.

    For outbound calls `await breaker.execute(fn)`. A consumer that pauses asks `ready()` before a
    call, and answers each True with one `record()`, or with `release()` if there was no call after
    all. Made for one event loop; calls may overlap.
    """

    def __init__(
        self,
        *,
        failure_ratio: float = 0.5,
        minimum: int = 20,
        window: timedelta = timedelta(seconds=10),
        pause: timedelta = timedelta(seconds=30),
        name: str = "circuit",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = Limits(failure_ratio, minimum, window.total_seconds(), pause.total_seconds())
        self._now = now
        self._circuit: Circuit = Closed()
        self.name = name
        _check(self._limits, name)

    @property
    def state(self) -> State:
        """`half-open` from the end of the pause until a probe has told."""
        match self._circuit:
            case Closed():
                return "closed"
            case Open(until) if self._now() < until:
                return "open"
            case _:
                return "half-open"

    def ready(self) -> bool:
        """True if a call may start now; half-open, one caller gets it and is the probe."""
        now = self._now()
        if not may_call(self._circuit, now):
            return False
        self._circuit = after_start(self._circuit, now, self._limits)
        return True

    def wait_seconds(self) -> float:
        """How long until `ready()` may be True; 0: now. A verdict on the probe may come earlier."""
        return max(0.0, ready_at(self._circuit) - self._now())

    def record(self, ok: bool, calls: int = 1) -> None:
        """Count how calls ended; half-open it is the probe's end."""
        change = after_success if ok else after_failure
        self._circuit = change(self._circuit, self._now(), self._limits, calls)

    def release(self) -> None:
        """Give back a `ready()` that was not used, or whose call ended without a verdict."""
        self._circuit = without_probe(self._circuit)

    async def execute(self, fn: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn` and count how it ends; any Exception is a failure, cancellation says nothing.

        Raises:
            CircuitOpenError: EB4107, it was not called.
        """
        if not self.ready():
            raise self._open()
        probe = self._circuit if isinstance(self._circuit, HalfOpen) else None
        try:
            result = await fn(*args, **kwargs)
        except Exception:
            self._end(probe, ok=False)
            raise
        except BaseException:
            if self._circuit is probe:
                self.release()
            raise
        self._end(probe, ok=True)
        return result

    def _end(self, probe: HalfOpen | None, *, ok: bool) -> None:
        # a call from before the circuit opened must not speak for the probe
        if self._circuit is probe or isinstance(self._circuit, Closed):
            self.record(ok)

    def _open(self) -> CircuitOpenError:
        limits = self._limits
        return CircuitOpenError(
            "EB4107",
            f"{self.name} is {self.state}: the call was not made",
            where=f"CircuitBreaker({self.name!r})",
            why=f"{limits.failure_ratio:.0%} of {limits.minimum} or more calls failed within "
            f"{limits.window_seconds:g} s, or the last probe did",
            next=f"call again in {self.wait_seconds():.1f} s, and look at what it calls",
        )


def _check(limits: Limits, name: str) -> None:
    if (
        0 < limits.failure_ratio <= 1
        and limits.minimum >= 1
        and limits.window_seconds > 0
        and limits.pause_seconds > 0
    ):
        return
    raise ConfigurationError(
        "EB1006",
        f"the circuit breaker {name!r} can never open, or never close",
        where=f"CircuitBreaker(name={name!r}, …)",
        why=f"failure_ratio={limits.failure_ratio}, minimum={limits.minimum}, "
        f"window={limits.window_seconds} s, pause={limits.pause_seconds} s",
        next="take a ratio above 0 and up to 1, at least one call, times above zero",
    )
