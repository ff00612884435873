"""The processes of the bank, and whoever starts them again."""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from eventbus.service import pause
from tests.faults.bank.worker import TRY_AGAIN, entered

STOP_SECONDS = 40.0
NOTHING: Mapping[str, str] = {}


@dataclass(slots=True, eq=False)
class Worker:
    """One life of one slot."""

    slot: int
    name: str
    process: asyncio.subprocess.Process
    doomed: bool = False  # we kill it

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def tell(self, number: signal.Signals) -> None:
        """Signal it; nothing if it has ended just now."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


class Workers:
    """Slots, each with a process; one that dies is replaced at once.

    Args:
        command: of a worker; directory, name, slot and how many there are come behind it.
        directory: for histories and logs.
        slots: how many at once.
        more: further arguments of the next life of a slot.
        environment: what they have besides ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        slots: int,
        more: Callable[[int], Sequence[str]] = lambda slot: (),
        environment: Mapping[str, str] = NOTHING,
    ) -> None:
        self.alive: dict[int, Worker] = {}
        self.lives = 0
        self.away = 0  # ends because broker or database was away, or was of no use
        self.surprises: list[str] = []  # ends that nobody wanted
        self._command = command
        self._directory = directory
        self._slots = slots
        self._more = more
        self._environment = environment
        self._stopping = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """All slots."""
        for slot in range(self._slots):
            keeper = asyncio.create_task(self._keep(slot), name=f"workers:{slot}")
            self._keepers.append(keeper)

    async def stop(self) -> list[int]:
        """SIGTERM to all; the exit codes of those that had entered. Who does not end is killed.

        One that is told before it has entered may end by the signal: it has nothing to finish.
        """
        self._stopping.set()
        workers = list(self.alive.values())
        for worker in workers:
            worker.tell(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*self._keepers)
        except TimeoutError:
            self.end()
        return [self._code(worker) for worker in workers]

    def _code(self, worker: Worker) -> int:
        code = worker.process.returncode or 0
        early = code == -signal.SIGTERM and not entered(self._directory, worker.name).exists()
        return 0 if early else code

    def end(self) -> None:
        """SIGKILL to whatever is left."""
        self._stopping.set()
        for worker in self.alive.values():
            worker.doomed = True
            worker.tell(signal.SIGKILL)

    def kill(self, worker: Worker) -> None:
        """SIGKILL; its slot gets another one."""
        worker.doomed = True
        worker.tell(signal.SIGKILL)

    def replace(self, worker: Worker) -> None:
        """SIGTERM; its slot gets another one."""
        worker.doomed = True
        worker.tell(signal.SIGTERM)

    async def _keep(self, slot: int) -> None:
        while not self._stopping.is_set():
            worker = await self._spawn(slot)
            self.alive[slot] = worker
            if self._stopping.is_set():  # the others were told while it was started
                worker.tell(signal.SIGTERM)
            code = await worker.process.wait()
            del self.alive[slot]
            if code == TRY_AGAIN:
                self.away += 1
                await pause(self._stopping, 0.3)
            elif not (worker.doomed or self._stopping.is_set()):
                self.surprises.append(f"{worker.name} ended with {code}")

    async def _spawn(self, slot: int) -> Worker:
        self.lives += 1
        name = f"worker-{slot}-{self.lives}"
        with (self._directory / f"{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                str(self._directory),
                name,
                str(slot),
                str(self._slots),
                *self._more(slot),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONHASHSEED": "0", **self._environment},
            )
        return Worker(slot, name, process)
