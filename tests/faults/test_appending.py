"""Rows 19 and 43: nothing of the log is lost, doubled or inverted, and every verdict was true.

`EVENTBUS_FAULTS=full` for 100,000 operations, with replies that are lost on the way.
"""

import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit, urlunsplit

import pytest

from eventbus.postgres import PostgresStorage
from eventbus.testing.conformance.samples import unique
from tests.conformance.postgres import database, entered
from tests.faults.appending import run
from tests.faults.proxy import Cut, FaultProxy, commit_reply, postgres

FULL = os.environ.get("EVENTBUS_FAULTS") == "full"
OPERATIONS = 100_000 if FULL else 2_000
WRITERS, STREAMS = 24, 40
SEED = int(os.environ.get("EVENTBUS_SEED", "1"))
LOST_REPLIES = 0.002 if FULL else 0.1  # of the statements of one of three processes
LOST_COMMITS = 0.02 if FULL else 0.6

pytestmark = pytest.mark.timeout(3_600 if FULL else 240)


@pytest.fixture
async def storages() -> AsyncIterator[list[PostgresStorage]]:
    """Three processes on one schema, the last behind a link that loses replies."""
    with database() as url:
        parts = urlsplit(url)
        upstream = (parts.hostname or "", parts.port or 5432)
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(entered(url, schema=unique("appending")))
            second = await stack.enter_async_context(PostgresStorage(first.config))
            proxy = await stack.enter_async_context(FaultProxy(upstream, framing=postgres))
            user = parts.netloc.rpartition("@")[0]
            through = parts._replace(
                netloc=f"{user}@127.0.0.1:{proxy.port}", query="sslmode=disable"
            )
            dice = random.Random(SEED)

            def loses(frame: bytes) -> bool:
                share = LOST_COMMITS if commit_reply(frame) else LOST_REPLIES
                return frame[:1] == b"C" and dice.random() < share

            config = type(first.config)(dsn=urlunsplit(through), schema=first.config.schema)
            third = await stack.enter_async_context(PostgresStorage(config))
            proxy.rule(toward="client", when=loses, do=Cut(), times=10**9)
            yield [first, second, third]
            proxy.heal()


async def test_every_verdict_is_true_and_every_reader_sees_all_in_one_order(
    storages: list[PostgresStorage],
) -> None:
    outcome = await run(
        storages, operations=OPERATIONS, writers=WRITERS, streams=STREAMS, seed=SEED
    )
    print(f"seed {SEED} {dict(outcome.figures)}", *outcome.verdicts, sep="\n")
    assert [str(verdict) for verdict in outcome.verdicts if not verdict.ok] == []
    assert outcome.false == []
    assert outcome.figures["operations"] >= OPERATIONS
    assert outcome.figures["events"] >= OPERATIONS * 0.8
    assert {name for name, count in outcome.figures.items() if not count} == set()
    k5, _ = outcome.verdicts
    assert k5.figures["conflicts"] > OPERATIONS / 50
