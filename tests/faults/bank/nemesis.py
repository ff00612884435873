"""What befalls the bank, by seed: kills, drains, pauses longer than a lease, crashes, outages."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from random import Random

from eventbus.service import pause
from eventbus.testing.services import PostgresServer
from tests.faults.bank.brokers import Broker
from tests.faults.bank.observer import Observer
from tests.faults.bank.outages import Act, Outages
from tests.faults.bank.workers import Worker, Workers
from tests.faults.history import History

FROZEN_SECONDS = 12.0  # the leases of relay and redelivery end after 10
LOOKS = 40  # for work in flight, before a fault comes anyway
RECOVER_SECONDS = 60.0  # whoever does not work by then is stuck, and the end of the day says so


class Nemesis:
    """One fault after another, the pauses beside them; each is counted by whether it hit work."""

    def __init__(
        self,
        seed: int,
        workers: Workers,
        server: PostgresServer,
        observer: Observer,
        history: History,
        broker: Broker,
        longest: float,
    ) -> None:
        self.hits: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.in_flight: Counter[str] = Counter()  # rows, transactions for `crash`, else messages
        self.recovered: dict[str, float] = {}  # the longest time from healed to handled again
        self._random = Random(seed)
        self._workers = workers
        self._server = server
        self._observer = observer
        self._history = history
        self._stopping = asyncio.Event()
        self._frozen: set[int] = set()
        self._pauses: list[asyncio.Task[None]] = []
        outages = Outages(broker, self._random, self._stopping, longest).acts
        self._acts: Mapping[str, Act] = {
            "kill": self._kill,
            "drain": self._drain,
            "pause": self._pause,
            "crash": self._crash,
            **{kind: partial(self._outage, kind, act) for kind, act in outages.items()},
        }

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of faults."""
        return tuple(self._acts)

    async def torment(self, *, every: float) -> None:
        """Until `heal`; what is frozen is thawed on return.

        Args:
            every: seconds between two faults, half to one and a half of it.
        """
        while not await self._observer.confirmed():  # a fault before the first work hits nothing
            if await pause(self._stopping, 0.1):
                return
        while not await pause(self._stopping, every * self._random.uniform(0.5, 1.5)):
            await self._acts[self._next()]()
        await asyncio.gather(*self._pauses)

    def heal(self) -> None:
        """No fault any more; those that last end."""
        self._stopping.set()

    def thaw(self) -> None:
        """Whatever is still frozen."""
        for worker in self._workers.alive.values():
            if worker.slot in self._frozen:
                worker.tell(signal.SIGCONT)

    def _next(self) -> str:
        """One of those that hit work least often; kills thrice as likely."""
        least = min(self.hits[kind] for kind in self.kinds)
        wanted = [kind for kind in self.kinds if self.hits[kind] == least]
        if self._frozen and "pause" in wanted:
            wanted.remove("pause")  # it is on its way
        return self._random.choice([*wanted, "kill", "kill"] if least or not wanted else wanted)

    async def _kill(self) -> None:
        worker = await self._busy_worker()
        if worker is None:
            return
        op = self._history.invoke("fault", value={"kind": "kill", "of": worker.name})
        self._workers.kill(worker)
        # Of the dead: what it holds cannot change any more, until its leases run out.
        self._note("kill", op, await self._observer.held_by(worker.pid))

    async def _drain(self) -> None:
        """As a deployment does: it ends what runs, gives back the rest, and another one comes."""
        worker = await self._busy_worker()
        if worker is None:
            return
        op = self._history.invoke("fault", value={"kind": "drain", "of": worker.name})
        held = await self._observer.held_by(worker.pid)
        self._workers.replace(worker)
        self._note("drain", op, held)

    async def _pause(self) -> None:
        worker = await self._busy_worker()
        if worker is None:
            return
        task = asyncio.create_task(self._freeze(worker), name=f"nemesis:pause:{worker.name}")
        self._pauses.append(task)

    async def _freeze(self, worker: Worker) -> None:
        op = self._history.invoke("fault", value={"kind": "pause", "of": worker.name})
        self._frozen.add(worker.slot)
        try:
            worker.tell(signal.SIGSTOP)
            held = await self._observer.held_by(worker.pid)
            if await pause(self._stopping, FROZEN_SECONDS):
                held = 0  # thawed before its leases ran out: it does not count
        finally:
            worker.tell(signal.SIGCONT)
            self._frozen.discard(worker.slot)
        self._note("pause", op, held)

    async def _crash(self) -> None:
        open_transactions = 0
        for _ in range(LOOKS):
            open_transactions = await self._observer.open_transactions()
            if open_transactions:
                break
            await pause(asyncio.Event(), 0.01)
        op = self._history.invoke("fault", value={"kind": "crash"})
        await self._server.restart("immediate")
        self._note("crash", op, open_transactions)

    async def _outage(self, kind: str, act: Act) -> None:
        """Of the broker or its links: messages on their way when it begins are hit."""
        in_flight = 0
        for _ in range(LOOKS):
            if in_flight := await self._observer.under_way():
                break
            await pause(asyncio.Event(), 0.01)
        op = self._history.invoke("fault", value={"kind": kind})
        await act()
        healed, done = time.monotonic(), await self._observer.confirmed()
        while time.monotonic() < healed + RECOVER_SECONDS:
            if self._stopping.is_set() or await self._observer.confirmed() > done:
                break
            await pause(asyncio.Event(), 0.05)
        seconds = time.monotonic() - healed
        self.recovered[kind] = max(seconds, self.recovered.get(kind, 0.0))
        self._note(kind, op, in_flight)

    async def _busy_worker(self) -> Worker | None:
        """One that holds work; if none does for a while, any."""
        worker = None
        for _ in range(LOOKS):
            able = [
                one
                for one in self._workers.alive.values()
                if one.slot not in self._frozen and not one.doomed
            ]
            if able:
                worker = self._random.choice(able)
                if await self._observer.held_by(worker.pid):
                    return worker
            await pause(asyncio.Event(), 0.01)
        return worker

    def _note(self, kind: str, op: int, in_flight: int) -> None:
        self._history.note("fault", "end", op, value={"kind": kind, "in_flight": in_flight})
        self.in_flight[kind] += in_flight
        (self.hits if in_flight else self.missed)[kind] += 1
