"""Row 61: duplicates of a command race duplicates of its undo, at two workers.

`EVENTBUS_FAULTS=full` for 2,000 effects in each test.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest

from eventbus import Command, Context, EventBus, Group, Reply, Undone, handles, undoes
from eventbus.memory import MemoryBroker, MemoryTransport
from eventbus.message import Message
from eventbus.postgres import PostgresStorage
from eventbus.testing.conformance.samples import unique
from tests.conformance.postgres import database, entered
from tests.faults.saga_races.worker import made

FULL = os.environ.get("EVENTBUS_FAULTS") == "full"
EFFECTS = 2_000 if FULL else 40
MOST_TIMES = 3
LONGEST = timedelta(seconds=300 if FULL else 60)
GROUP = Group("cashiers", lanes=4)

pytestmark = pytest.mark.timeout(600 if FULL else 120)


class Paid(Reply, type="till.paid"): ...


class Pay(Command[Paid], type="till.pay", key="till"):
    till: str
    effect: str


class PayBack(Command[Undone], type="till.pay-back", key="till"):
    till: str
    effect: str


@handles(Pay, group=GROUP)
async def pay(command: Pay, ctx: Context) -> Paid:
    await ctx.sql.execute("INSERT INTO ledger VALUES ($1, 1)", command.effect)
    return Paid()


@undoes(pay, PayBack)
async def pay_back(command: PayBack, done: Paid, ctx: Context) -> None:
    await ctx.sql.execute("INSERT INTO ledger VALUES ($1, -1)", command.effect)


@pytest.fixture
def server() -> Iterator[str]:
    with database() as url:
        yield url


def commands(dice: Random, undone_at: str) -> list[Message]:
    """One to three times each effect, and one to three times its undo, in any order."""
    found: list[Message] = []
    for number in range(EFFECTS):
        effect, saga = uuid4(), uuid4()
        till, other = f"t{number}", f"{undone_at}{number}"
        forward, undo = Pay(till=till, effect=str(effect)), PayBack(till=other, effect=str(effect))
        times = dice.randint(1, MOST_TIMES)
        found += [sent(forward, saga, effect) for _ in range(times)]
        times = dice.randint(1, MOST_TIMES)
        found += [sent(undo, saga, effect, "undo") for _ in range(times)]
    places = [place + dice.uniform(0, 12) for place in range(len(found))]
    return [message for _, message in sorted(zip(places, found, strict=True), key=_by_place)]


def _by_place(pair: tuple[float, Message]) -> float:
    return pair[0]


def sent(command: Command[Any], saga: UUID, effect: UUID, phase: str = "forward") -> Message:
    """As a saga sends it: the effect of an undo is its own, and names that of its command."""
    return made(
        command,
        sagaid=str(saga),
        sagaphase=phase,
        sagaeffect=str(effect if phase == "forward" else uuid4()),
        sagatarget=str(effect),
        sagareplyto="races.replies",
    )


@pytest.mark.parametrize(
    "undone_at",
    [
        "elsewhere-",
        pytest.param("t", marks=pytest.mark.skipif(not FULL, reason="capability: the long tier")),
    ],
    ids=["any lanes", "one lane"],
)
async def test_undos_that_race_their_commands_leave_the_ledger_in_balance(
    server: str, undone_at: str
) -> None:
    broker = MemoryBroker()
    async with entered(server, schema=unique("races")) as storage:

        def worker() -> EventBus:
            return EventBus(
                MemoryTransport(broker),
                storage=PostgresStorage(storage.config),
                handlers=[pay, pay_back],
            )

        async with storage.transaction() as tx:
            await tx.sql.execute("CREATE TABLE ledger (effect text, amount integer)")
        async with worker() as one, worker() as other:
            await handled(one, other, commands(Random(11), undone_at))
        async with storage.transaction() as tx:
            rows = await tx.sql.fetch("SELECT * FROM ledger")
            states = await tx.sql.fetch(f"SELECT state FROM {storage.config.schema}.saga_effect")
    assert Counter(row["state"] for row in states).keys() == {"undone", "fenced"}
    assert len(states) == EFFECTS
    entries = Counter((row["effect"], row["amount"]) for row in rows)
    assert [effect for effect, times in entries.items() if times > 1] == [], "twice"
    paid = {effect for effect, amount in entries if amount == 1}
    assert paid == {effect for effect, amount in entries if amount == -1}
    assert 0 < len(paid) < EFFECTS, "no race: every command was first, or none"


async def handled(one: EventBus, other: EventBus, messages: Sequence[Message]) -> None:
    """By both of them."""
    for place in range(0, len(messages), 500):
        async with one.transaction() as tx:
            await tx.storage.outbox.add(messages[place : place + 500])
    for bus in (one, other, one):
        await bus.until_idle(at_most=LONGEST)
