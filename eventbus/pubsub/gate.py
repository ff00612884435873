"""Whether a group may start work: an operator's pause, an open circuit, or nothing in the way."""

import asyncio
from typing import Protocol

PROBE_SECONDS = 0.25
UNLIMITED = 1 << 30


class Circuit(Protocol):
    """What a group's gate asks of its circuit breaker (B9)."""

    def ready(self) -> bool:
        """Whether a call may start; half-open only one may."""
        ...

    def record(self, ok: bool, calls: int = 1) -> None:
        """What became of calls."""
        ...

    def release(self) -> None:
        """A call that `ready` allowed ended without a verdict."""
        ...

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        ...


STATES = {"closed": 0, "half-open": 1, "open": 2}


class Gate:
    """Lanes ask before they take; nothing here gives up membership or a message."""

    def __init__(self, circuit: Circuit) -> None:
        self.paused_by_operator = False
        self.crowded = False  # too much is parked: what comes would only queue behind it
        self._circuit = circuit

    @property
    def is_shut(self) -> bool:
        """Whether asking for a permit is no use now; asking this uses none up."""
        return self.paused_by_operator or self._circuit.state == "open"

    @property
    def circuit_state(self) -> int:
        """0 closed, 1 half-open, 2 open."""
        return STATES[self._circuit.state]

    def permit(self, *, parked: bool = False) -> int:
        """How many messages may start now: 0 while paused, 1 as a probe.

        What is `parked` already goes on while the parking is crowded: that empties it.
        """
        if self.paused_by_operator or (self.crowded and not parked):
            return 0
        if self._circuit.state == "closed":
            return UNLIMITED
        return 1 if self._circuit.ready() else 0

    def probed(self) -> None:
        """The probe's batch is over: if it said nothing, the next message probes."""
        if self._circuit.state == "half-open":
            self._circuit.release()

    async def wait(self) -> None:
        """A little while; ask again after it."""
        await asyncio.sleep(PROBE_SECONDS)

    @property
    def reason(self) -> str | None:
        """Why nothing starts, for health; None: it may."""
        if self.paused_by_operator:
            return "paused by an operator"
        if self.crowded:
            return "paused: too much is parked"
        if self._circuit.state != "closed":
            return f"paused: circuit {self._circuit.state}"
        return None
