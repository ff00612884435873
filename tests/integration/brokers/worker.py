"""A worker in a process of its own: `python -m … URL DATABASE TOPIC GROUP WORK GRACE`.

Prints what it does, a line each; effects are rows of the same transaction. `WORK` is a name below.
"""

import asyncio
import os
import sys
import threading
from datetime import timedelta

from eventbus import Context, Event, EventBus, Group, RetryPolicy, subscribe
from eventbus.service import pause

SOON = RetryPolicy(in_place=0, parked=(timedelta(milliseconds=20), timedelta(milliseconds=20)))
DEADLY = 2


class Placed(Event):
    order: str
    number: int


def placed(topic: str) -> type[Placed]:
    """The event on a topic of this test."""

    class OnTopic(Placed, type="shop.placed", key="order", topic=topic):
        pass

    return OnTopic


async def at_once(number: int) -> None:
    """Nothing to wait for."""


async def for_a_second(number: int) -> None:
    """In flight for a while."""
    await pause(asyncio.Event(), 1.0)


async def for_ever(number: int) -> None:
    """It swallows its cancellation, again and again."""
    while True:
        try:
            await asyncio.Event().wait()
        except BaseException:
            continue


async def deadly(number: int) -> None:
    """One of them kills its process."""
    if number == DEADLY:
        os._exit(9)


WORK = {each.__name__: each for each in (at_once, for_a_second, for_ever, deadly)}


def a_bus(url: str, database: str, topic: str, group: str, work: str = "at_once") -> EventBus:
    """One lane, so that what has begun and what has not is known."""
    subscribed = subscribe(
        placed(topic), group=Group(group, lanes=1, retry=SOON, timeout=timedelta(seconds=4))
    )

    async def handle(event: Placed, ctx: Context) -> None:
        print("began", event.number, flush=True)
        await ctx.sql.execute("INSERT INTO effects (number) VALUES ($1)", event.number)
        await WORK[work](event.number)
        print("ended", event.number, flush=True)

    def handle_in_a_thread(event: Placed) -> None:
        print("began", event.number, flush=True)
        threading.Event().wait()

    handler: object = (
        subscribed(handle_in_a_thread) if work == "in_a_thread" else subscribed(handle)
    )
    return EventBus(url, storage=f"sqlite:///{database}", handlers=[handler], service="shop")


async def until_idle(bus: EventBus) -> None:
    """Work until nothing is left."""
    async with bus:
        await bus.until_idle(at_most=timedelta(seconds=60))


async def until_told(bus: EventBus, grace: float) -> None:
    """Work until a signal comes."""
    print("entering", flush=True)
    drained = await bus.run(grace=timedelta(seconds=grace))
    print("drained" if drained else "cut", flush=True)


if __name__ == "__main__":
    print("imported", flush=True)
    _bus = a_bus(*sys.argv[1:6])
    asyncio.run(
        until_idle(_bus) if sys.argv[5] == "deadly" else until_told(_bus, float(sys.argv[6]))
    )
