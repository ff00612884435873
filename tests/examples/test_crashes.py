"""The examples survive their crash points: hello at every one, the shop at those that commit."""

import asyncio
import runpy
from pathlib import Path

import pytest

from eventbus import EventBus
from eventbus.testing.crashtest import crashtest
from examples.order_book import crashes

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_hello_survives_what_happens_to_its_handlers(capsys: pytest.CaptureFixture[str]) -> None:
    hello = runpy.run_path(str(EXAMPLES / "01_hello.py"))
    bus = EventBus("memory://", handlers=[hello["bill"], hello["thank"], hello["note"]])

    async def scenario(bus: EventBus) -> None:
        await bus.publish(hello["OrderPlaced"](order_id="A-1", cents=4200))
        await bus.publish("user.created", {"user_id": "123"}, key="123")

    report = asyncio.run(crashtest(bus, scenario, points=["consumer.*", "publish.*"]))
    report.assert_holds()
    assert report.hit > 30


async def test_the_order_book_survives_those_that_commit() -> None:
    report = await crashtest(
        crashes.bus,
        crashes.a_morning,
        prepare=crashes.prepare,
        invariants=[
            crashes.the_ledger_balances,
            crashes.what_is_reserved_was_shipped,
            crashes.what_was_shipped_is_sold,
        ],
        points=[
            "consumer.commit_sent",
            "saga.commanded",
            "relay.confirmed",
            "projection.commit_sent",
        ],
    )
    report.assert_holds()
    assert report.failing == []
    named = {name for trial in report.trials for kill in trial.kills for name in kill.names}
    assert {"saga.commit_sent", "relay.confirmed", "projection.commit_sent"} <= named
