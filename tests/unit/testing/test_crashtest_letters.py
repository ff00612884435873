"""What a crash test and its processes tell each other comes over as it was."""

from collections import Counter
from datetime import UTC, datetime
from uuid import UUID

import orjson

from eventbus.testing.crashtest.ledger import Standing, Violation
from eventbus.testing.crashtest.letters import Letter, life_of, life_to_json
from eventbus.testing.crashtest.life import Life, Orders
from eventbus.testing.crashtest.points import Point

KILL = Point("consumer", "billing", "commit", 2, "after", ("consumer.commit_sent",))
DRY = Standing(
    given_up=Counter({("billing", "shop.placed", None, "LookupError: A-1"): 2}),
    sagas=Counter({("place-order", "A-1", "completed"): 1}),
    effective={("billing", "shop.placed"), ("mail", "shop.placed")},
)


def letter(orders: Orders) -> Letter:
    return Letter(
        app="app:bus",
        scenario="scenarios.py:place",
        transport="amqp://broker/t",
        prefix="",
        storage="postgresql://server/t",
        fresh=True,
        answer="answer.json",
        orders=orders,
    )


def test_a_letter_says_all_that_is_to_be_done() -> None:
    for orders in (Orders(), Orders(kill=KILL, drives=False, cut=True, dry=DRY)):
        sent = letter(orders)
        got = Letter.read(sent.written())
        assert got == sent
        assert got.orders.kill is None or got.orders.kill.names == KILL.names


def test_an_answer_says_all_that_was_seen() -> None:
    row = {"id": UUID(int=1), "at": datetime(2026, 11, 27, tzinfo=UTC), "cents": 4200}
    life = Life(
        killed=True,
        phase="driving",
        points=[KILL],
        calls=["consumer:billing.commit"],
        violations=[Violation("ATOMIC", "torn", [row])],
        standing=DRY,
    )
    got = life_of(orjson.loads(life_to_json(life)))
    assert (got.killed, got.phase, got.points, got.calls) == (
        True,
        "driving",
        [KILL],
        ["consumer:billing.commit"],
    )
    assert got.standing == DRY
    (violation,) = got.violations
    assert violation.rows == [
        {"id": str(UUID(int=1)), "at": "2026-11-27T00:00:00+00:00", "cents": 4200}
    ]
