"""The inside of a process of a crash test on real services: it lives, dies or answers."""

import os
import signal
from pathlib import Path
from typing import cast

import orjson

from eventbus.bus import EventBus
from eventbus.storage import Storage, open_storage
from eventbus.testing.crashtest.letters import Letter, life_to_json
from eventbus.testing.crashtest.life import Subject, lived, told
from eventbus.testing.crashtest.points import CrashPlan
from eventbus.testing.crashtest.tables import CALL_DUE, LEASES_RAN_OUT, ON_POSTGRES, PASSED
from eventbus.testing.faults import FaultyStorage, FaultyTransport
from eventbus.testing.live import PrefixedTransport
from eventbus.transport import Transport, open_transport

_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows that one ends it as abruptly
_SERVICE = "crashtest"


async def live(subject: Subject, letter: Letter) -> None:
    """Do what the letter says, and write the answer; at its kill, write what was seen and die.

    Raises what the application raises.
    """
    answer, plan = Path(letter.answer), CrashPlan(letter.orders.kill)

    def die() -> None:
        _write(answer, life_to_json(told(plan, killed=True)))
        os.kill(os.getpid(), _KILL)

    plan.on_kill = die
    if letter.fresh:
        await _made(subject, letter)
    else:
        await _after_the_dead(letter)
    storage = open_storage(letter.storage, _SERVICE)
    bus = subject.app.replace(
        transport=FaultyTransport(_transport(letter), plan),
        storage=FaultyStorage(storage, plan),
        middleware=[subject.ledger.note],
    )
    life = await lived(subject, bus, plan, letter.orders, _Nearer(storage))
    _write(answer, life_to_json(life))


def failed(letter: Letter, what: str) -> None:
    """Answer that it failed by itself."""
    _write(Path(letter.answer), orjson.dumps({"failed": what}))


def _write(answer: Path, text: bytes) -> None:
    answer.write_bytes(text)


class _Nearer:
    """The server's clock stays: what is due later comes nearer.

    Args:
        storage: entered by the bus; its own transactions are no crash points.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def call_due(self) -> float | None:
        """By the clock of the server."""
        async with self._storage.transaction() as tx:
            (row,) = await tx.sql.fetch(CALL_DUE)
        return cast("float | None", row["seconds"])

    async def advance(self, seconds: float) -> None:
        """Leases stay: those of the dead ran out before this process began."""
        async with self._storage.transaction() as tx:
            for statement in PASSED:
                await tx.sql.execute(statement, seconds)


async def _made(subject: Subject, letter: Letter) -> None:
    """Our schema, the tables of the ledger, those of the application."""
    copy: EventBus = subject.app.replace(transport=_transport(letter), storage=letter.storage)
    await copy.upgrade()
    await _run(letter, *ON_POSTGRES)
    if subject.prepare is not None:
        async with copy.client() as bus:
            await subject.prepare(bus)


async def _after_the_dead(letter: Letter) -> None:
    await _run(letter, LEASES_RAN_OUT)


async def _run(letter: Letter, *statements: str) -> None:
    storage = open_storage(letter.storage, _SERVICE)
    async with storage, storage.transaction() as tx:
        for statement in statements:
            await tx.sql.execute(statement)


def _transport(letter: Letter) -> Transport:
    inner = open_transport(letter.transport, _SERVICE)
    return cast("Transport", PrefixedTransport(inner, letter.prefix)) if letter.prefix else inner
