"""The suite of transports catches every mutant, each by the test named for it."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

import pytest

from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import Message
from eventbus.testing import conformance
from eventbus.testing.conformance.transport import leaving, member
from tests.faults.mutants_transport import MUTANTS, Mutant

WITHIN = 0.5  # seconds: a mutant that hangs is caught as well


@pytest.mark.parametrize(
    "mutant", MUTANTS, ids=lambda each: f"{each.name} {each.style} {each.caught_by}"
)
def test_the_suite_catches(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "WITHIN", WITHIN)
    monkeypatch.setattr(leaving, "LEAVE_SECONDS", WITHIN)
    run(mutant)  # the test is green as long as nothing is broken
    started = time.monotonic()
    mutant.apply(monkeypatch)
    try:
        run(mutant)
    except pytest.skip.Exception:
        raise
    except (Exception, pytest.fail.Exception) as caught:  # whatever turns it red
        seconds = time.monotonic() - started
        print(f"{mutant.name} -> {mutant.caught_by}: {type(caught).__name__} in {seconds:.2f} s")
    else:
        pytest.fail(f"{mutant.caught_by} is green though the transport {mutant.name}")


def run(mutant: Mutant) -> None:
    broker = MemoryBroker(style=mutant.style, stepwise=mutant.stepwise)

    async def inject(message: Message) -> None:
        broker.inject(message.topic, message, malformed="no ce_type")

    fixtures: dict[str, Callable[..., Any]] = {
        "connect": lambda: MemoryTransport(broker),
        "break_envelope": inject,
    }
    test = getattr(conformance.TransportSuite(), mutant.caught_by)
    wanted = inspect.signature(test).parameters
    given = {name: fixture for name, fixture in fixtures.items() if name in wanted}
    asyncio.run(test(**given, **mutant.arguments))
