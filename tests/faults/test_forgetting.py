"""Row 59: killed on the way a subject is forgotten or it is not, and nothing stands in between."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventbus import EventBus
from eventbus.testing.conformance.samples import unique
from tests.conformance.postgres import database
from tests.faults.forgetting import MASTER
from tests.integration.personal.shop import ADA, Account, SignedUp

ROOT = Path(__file__).parents[2]
MOST_CALLS = 20
FULL = os.environ.get("EVENTBUS_FAULTS") == "full"  # every call on both; quick: half of it, a file


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"] if FULL else ["sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shop.db'}"
    server: str = request.getfixturevalue("server")
    return f"{server}?schema={unique('forgetting')}"


def bus_on(url: str) -> EventBus:
    return EventBus("memory://", storage=url, handlers=[SignedUp], master_key=MASTER)


async def signed_up(url: str, customer: str) -> None:
    """With a snapshot of what the log knows of them."""
    async with bus_on(url) as bus:
        for _ in range(4):
            async with bus.transaction() as tx:
                account = await Account.load(customer, tx)
                account.emit(SignedUp(customer_id=customer, email=ADA))
                await account.save(tx, publish=False)
            await bus.until_idle()


async def killed(url: str, customer: str, nth: int, when: str) -> bool:
    """Whether it was; else it ended before so many calls."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.forgetting", url, customer, str(nth), when),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, _ = await child.communicate()
    assert (child.returncode == 0) == (out == b"done\n")
    assert child.returncode in {0, -9}
    return child.returncode != 0


async def state_of(url: str, customer: str) -> set[bool]:
    """Whether they are forgotten: by the key, by the event, by what readers get."""
    async with bus_on(url) as bus:
        listed = {one.subject.name for one in await bus.events.forgotten()}
        told = await bus.events.read(f"forgotten-{customer}")
        read = {
            getattr(one.event, "email", "") for one in await bus.events.read(f"account-{customer}")
        }
        async with bus.transaction() as tx:
            read.add((await Account.load(customer, tx)).email)
        assert len(read) == 1
        return {customer in listed, len(told) == 1, read == {"[forgotten]"}}


@pytest.mark.parametrize("when", ["before", "after"] if FULL else ["after"])
async def test_killed_at_any_call_it_is_all_or_nothing(url: str, when: str) -> None:
    await bus_on(url).upgrade()
    outcomes: list[bool] = []
    for nth in range(1, MOST_CALLS):
        customer = f"c-{nth}"
        await signed_up(url, customer)
        if not await killed(url, customer, nth, when):
            break
        (forgotten,) = await state_of(url, customer)
        outcomes.append(forgotten)
        async with bus_on(url) as bus:
            assert (await bus.events.forget(customer)).new is not forgotten
        assert await state_of(url, customer) == {True}
    assert len(outcomes) in range(3, MOST_CALLS - 1)
    assert outcomes == sorted(outcomes)  # the commit is the one moment
    assert outcomes[-1] is (when == "after")
