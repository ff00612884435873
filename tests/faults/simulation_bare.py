"""A bus without a storage on a seeded loop: at least once, and dead letters on the broker."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from random import Random
from typing import Literal

from eventbus import Context, DeadLetter, Event, EventBus, Group, RetryPolicy, subscribe
from eventbus.errors import PublishError, TransportError
from eventbus.memory import MemoryBroker
from eventbus.testing.faults import Delay, FaultPlan, FaultyTransport, Hit, Kill
from tests.faults.checkers.verdict import Verdict
from tests.faults.loop import SeededLoop, process, run_seeded
from tests.faults.simulated.life import end_process
from tests.faults.simulated.world import SurvivingTransport
from tests.faults.simulation import repeatable

MESSAGES = 6
POINTS = ("deadletter.sent", "deadletter.confirmed", "consumer.delivered", "consumer.acked")
GROUP = Group("bare", retry=RetryPolicy(in_place=0, parked=(timedelta(seconds=0.2),)), lanes=2)


class Sent(Event, type="bare.sent", key="account"):
    account: str
    seq: int


@dataclass(slots=True)
class Bare:
    """What outlives its processes."""

    seed: int
    broker: MemoryBroker
    acknowledged: list[str] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)
    hits: list[Hit] = field(default_factory=list)

    @subscribe(Sent, group=GROUP)
    async def take(self, event: Sent, ctx: Context) -> None:
        """Some always fail, some at once."""
        if event.seq % 3 == 1:
            raise ValueError("always")
        if event.seq % 3 == 2:
            raise DeadLetter
        self.effects.append(ctx.message.id)


async def _life(world: Bare, number: int, draw: Random, *, last: bool) -> None:
    plan = FaultPlan(seed=world.seed * 7 + number)
    killed = asyncio.Event()
    plan.on_kill = killed.set
    if not last and draw.random() < 0.5:
        plan.add(draw.choice(POINTS), draw.randint(1, 3), Kill())
    elif not last:  # at a time, with slow confirms: the broker knows of earlier verdicts by then
        plan.sprinkle(rate=0.3, kinds=[partial(Delay, 2.5)])
        asyncio.get_running_loop().call_later(draw.uniform(0.5, 4), plan.kill)
    inner = SurvivingTransport(world.broker)
    bus = EventBus(FaultyTransport(inner, plan), handlers=[world], service="bare")
    name = f"bare:{number}"
    process.set(name)  # tasks made from here on belong to it
    work = asyncio.create_task(_work(world, bus, last=last), name=name)
    process.set("")
    dying = asyncio.create_task(killed.wait(), name="killer")
    await asyncio.wait({work, dying}, return_when=asyncio.FIRST_COMPLETED)
    world.hits += plan.hits
    if plan.frozen:
        await end_process(name)
        inner.abandon()
    else:
        dying.cancel()
        work.result()


async def _work(world: Bare, bus: EventBus, *, last: bool) -> None:
    async with bus:
        for seq in range(MESSAGES):
            try:
                sent = await bus.publish(Sent(account=f"k{seq % 2}", seq=seq))
            except (PublishError, TransportError):
                continue
            world.acknowledged.append(sent)
        await asyncio.sleep(3)
        if last:
            await bus.until_idle(at_most=timedelta(seconds=600))


def simulate_bare(seed: int) -> tuple[Sequence[Verdict], Sequence[Hit]]:
    """Every acknowledged message took effect, or is a dead letter; perhaps more than once."""

    async def main(loop: SeededLoop) -> tuple[Sequence[Verdict], Sequence[Hit]]:
        draw = Random(seed)
        world = Bare(seed, MemoryBroker(stepwise=True, seed=seed, style=draw.choice(_STYLES)))
        with repeatable(seed):
            for number in range(2):
                await _life(world, number, draw, last=number == 1)
        dead = {message.id for message in world.broker.published("bare.bare.dlq")}
        lost = sorted(set(world.acknowledged) - set(world.effects) - dead)
        verdict = Verdict(
            checker="K1 bare",
            ok=not lost,
            figures={"acknowledged": len(world.acknowledged), "lost": len(lost)},
            counterexample=lost,
        )
        return [verdict], world.hits

    return run_seeded(seed, main, at_most=3600.0)


_STYLES: tuple[Literal["log", "queue"], ...] = ("log", "queue")
