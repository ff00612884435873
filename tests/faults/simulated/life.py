"""A process from its start to its kill, its drain, or the end of the schedule."""

import asyncio
from collections.abc import Mapping
from contextvars import copy_context
from datetime import timedelta
from random import Random
from typing import Any, cast
from uuid import UUID

from eventbus import (
    EventBus,
)
from eventbus.errors import CommitUnknownError, StorageError
from eventbus.inspection import Selection
from eventbus.memory import MemoryTransport
from eventbus.message import Message
from eventbus.testing.faults import (
    POINTS,
    FaultPlan,
    FaultyStorage,
    FaultyTransport,
    Hang,
    Kill,
)
from tests.faults.coverage import SWEPT_APART, WITHOUT_STORAGE
from tests.faults.loop import SeededLoop, process
from tests.faults.simulated.world import (
    Chain,
    Loose,
    Outside,
    PatientChain,
    Step,
    SurvivingTransport,
    World,
    business_row,
    last_row,
)

GRACE = 25.0  # virtual seconds a drain may take, and a little for its last commits


async def end_process(name: str) -> None:
    """Its tasks end; what they still try is refused by its plan."""
    loop = cast("SeededLoop", asyncio.get_running_loop())
    while left := [task for task in loop.of_process(name) if _dies(task)]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.001)
    for owner, task in loop.tasks:
        if owner == name and task.done() and not task.cancelled():
            task.exception()  # seen: the dead may have fallen over anything


def _dies(task: asyncio.Task[Any]) -> bool:
    """A rebalance is the broker's, whoever was the cause of it."""
    return not task.get_name().startswith("rebalance:")


class Life:
    """A process from its start to its kill, its drain, or the end of the schedule."""

    def __init__(self, world: World, number: int, *, last: bool) -> None:
        scenario = world.scenario
        self.world = world
        self.number = number
        self.name = f"process:{number}"
        self.last = last
        self.plan = FaultPlan(seed=scenario.seed * 31 + number)
        self.plan.sprinkle(rate=scenario.rate, kinds=scenario.kinds)
        self.killed = asyncio.Event()
        self.plan.on_kill = self.killed.set
        if not last and not scenario.drains:
            self._plan_kill(world.random)
        if scenario.silent_publish:
            self.plan.add("relay:publish", scenario.silent_publish, Hang(seconds=1e6))
        adapter = SurvivingTransport if scenario.durable else MemoryTransport
        self.inner = adapter(world.broker)
        chain = PatientChain if scenario.outage_seconds else Chain
        handlers: list[object] = [chain(world)]
        handlers += [Outside(world)] if scenario.third == "outside" else []
        handlers += [Loose(world)] if scenario.third == "loose" else []
        self.bus = EventBus(
            FaultyTransport(self.inner, self.plan, zombies=world.zombies),
            storage=FaultyStorage(world.storage, self.plan),
            handlers=handlers,
            service="sim",
        )

    def _plan_kill(self, draw: Random) -> None:
        """At a named point, at a time, or at any call: near the start more often than late."""
        how = draw.random()
        if how < 0.25:
            self.world.loop.call_later(draw.uniform(0.5, 4), self.plan.kill)
        elif how < 0.6:
            self.plan.add(draw.choice(_POINTS), draw.randint(1, 4), Kill())
        else:
            nth = int(10 ** draw.uniform(0.5, 2.9))
            self.plan.add("*", nth, Kill(after=draw.random() < 0.5))

    async def run(self) -> None:
        """Until it ends."""
        context = copy_context()
        context.run(process.set, self.name)
        work = asyncio.create_task(self._process(), name=self.name, context=context)
        dying = asyncio.create_task(self.killed.wait(), name=f"killer:{self.number}")
        await asyncio.wait({work, dying}, return_when=asyncio.FIRST_COMPLETED)
        self.world.hits += self.plan.hits
        if self.plan.frozen:
            self.world.marks["kill"] += 1
            await self._die()
        else:
            dying.cancel()
            work.result()

    async def _die(self) -> None:
        await end_process(self.name)
        self.inner.abandon()
        if not (self.world.scenario.durable or self.world.scenario.twins):
            self.world.new_broker()

    async def _process(self) -> None:
        began = 0.0
        try:
            async with self.bus:
                await self._work()
                if not self.last:
                    began = self.world.loop.time()
                    raise _Drain  # noqa: TRY301 - the bus must be left with an exception
                await self._come_to_rest()
        except _Drain:
            self.world.marks["drain"] += 1
            if self.world.loop.time() - began > GRACE + 5.0:
                raise AssertionError("the drain used more than its grace") from None

    async def _work(self) -> None:
        """Publish; a drain may come in the middle of it."""
        scenario, world = self.world.scenario, self.world
        async with asyncio.TaskGroup() as tasks:
            for key in range(scenario.keys):
                tasks.create_task(self._client(f"k{key}"), name=f"client:k{key}")
            tasks.create_task(self._plain_client(f"p{self.number}"), name="client:plain")
            if scenario.pause and not world.marks["pause"]:
                tasks.create_task(self._pause(), name="client:operator")
            if scenario.garbage and not world.injected:
                world.injected = True
                self._inject_garbage()
        if not self.last and not scenario.drains:
            await asyncio.sleep(3)  # time to be killed in the midst of retries
        elif not self.last:
            await asyncio.sleep(world.random.uniform(0, 3))

    async def _client(self, key: str) -> None:
        """Until every message of the key is committed, by this process or by another."""
        while True:
            try:
                if await self._publish_next(key):
                    return
            except StorageError:
                await asyncio.sleep(0.1)

    async def _publish_next(self, key: str) -> bool:
        """Business row and message in one transaction; the rows tell which one is next."""
        history = self.world.history
        op = history.invoke("publish", key=key)
        facts: dict[str, Any] = {"key": key}
        try:
            async with self.bus.transaction() as tx:
                seq = 1 + await last_row(tx, key)
                if seq > self.world.scenario.per_key:
                    history.note("publish", "fail", op, **facts)
                    return True
                message_id = await tx.publish(Step(account=key, seq=seq))
                facts |= {"seq": seq, "id": message_id}
                history.note("publish", "invoke", op, **facts)
                await business_row(tx, message_id, key, seq, "step")
        except CommitUnknownError as error:
            self.world.marks["commit unknown"] += 1
            verdict = await error.resolve()
            if "id" in facts:
                history.note("publish", _TYPES[verdict], op, **facts)
        except StorageError:
            history.note("publish", "fail", op, **facts)
            raise
        else:
            history.note("publish", "ok", op, **facts)
        return False

    async def _plain_client(self, key: str) -> None:
        """`bus.publish`: what became of an unknown one is asked before the next."""
        seq = 1
        while seq <= 2:
            op = self.world.history.invoke("publish", key=key, seq=seq)
            self.world.marks["plain"] += 1
            try:
                message_id = await self.bus.publish(Step(account=key, seq=seq))
                verdict = "committed"
            except CommitUnknownError as error:
                verdict = await error.resolve()
                message_id = next(iter(error.ids), "")
            except StorageError:
                verdict, message_id = "rolled_back", ""
            facts = {"key": key, "seq": seq, "id": message_id}
            self.world.history.note("publish", _TYPES[verdict], op, **facts)
            seq += verdict == "committed"

    async def _pause(self) -> None:
        self.world.marks["pause"] += 1
        inspection = self.world.storage.inspection
        where = Selection(place="parked", group="ledger")
        await inspection.change("pause", where, actor="sim")
        await asyncio.sleep(4)
        if not self.plan.frozen:
            await inspection.change("resume", where, actor="sim")

    def _inject_garbage(self) -> None:
        for number in range(self.world.scenario.garbage):
            message = Message(
                id=str(UUID(int=0xBAD0 + number)),
                type="sim.step",
                source="/elsewhere",
                topic="sim",
                key="garbage",
                payload=b"\xff\x00",
            )
            self.world.garbage.append(message.id)
            self.world.broker.inject("sim", message)

    async def _come_to_rest(self) -> None:
        """Heal, then demand an end: nothing on its way, nothing parked, nothing dead."""
        world = self.world
        inspection = world.storage.inspection
        if world.scenario.twins:
            await world.alone.wait()
        await asyncio.sleep(world.scenario.outage_seconds and world.scenario.outage_seconds + 65)
        self.plan.heal()
        await inspection.change("resume", Selection(place="parked", group="ledger"), actor="sim")
        if world.scenario.outage_seconds:
            dead = await inspection.find(Selection(place="dead-letter"), limit=100)
            world.dead_in_outage = len(dead)
        await asyncio.sleep(2.5)
        world.healed = True
        while True:
            # in virtual time, and cheaper than asking the bus every 2 ms
            while not world.broker.idle() or await inspection.find(_OUTBOX, limit=1):  # noqa: ASYNC110 - facts without an event
                await asyncio.sleep(0.3)
            await self.bus.until_idle(at_most=timedelta(seconds=600))
            if not await self._put_right():
                return
            await asyncio.sleep(1)

    async def _put_right(self) -> bool:
        """What an operator does: discard what cannot be read, redrive the rest; whether any was."""
        inspection = self.world.storage.inspection
        dead = await inspection.find(Selection(place="dead-letter"), limit=100)
        bad = [row for row in dead if row["reason"] == "quarantined"]
        self.world.quarantined += [(str(row["group"]), str(row["id"])) for row in bad]
        self.world.marks["quarantined"] += len(bad)
        for row in bad:
            what = Selection(place="dead-letter", group=row["group"], ids=[row["id"]])
            await inspection.change("discard", what, actor="sim")
        if len(dead) > len(bad):
            self.world.marks["redrive"] += 1
            await inspection.change("redrive", Selection(place="dead-letter"), actor="sim")
        parked = await inspection.find(Selection(place="parked"), limit=100)
        outbox = await inspection.find(_OUTBOX, limit=100)
        return bool(dead or parked or outbox)


_POINTS = sorted(set(POINTS) - WITHOUT_STORAGE - SWEPT_APART)
_OUTBOX = Selection(place="outbox")


class _Drain(Exception):  # noqa: N818 - a way out, no error
    pass


_TYPES: Mapping[str, Any] = {"committed": "ok", "rolled_back": "fail", "unknown": "info"}
