"""One process: a client that asks for transfers, sagas, participants, relay, redelivery.

`python -m tests.faults.saga_bank.worker TRANSPORT STORAGE DIRECTORY NAME SLOT SLOTS VERSIONS CLOCK
[MUTANT]`. VERSIONS are those of the saga that it has, as "1" or "1,2"; CLOCK is how many seconds
its wall clock is wrong. It asks until `DIRECTORY/enough` is there, and ends by SIGTERM. Exit code
75: database or broker was away when the bus was entered, start it again.
"""

import asyncio
import logging
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

from eventbus import EventBus
from eventbus.errors import StorageError, TransportError
from eventbus.saga import calls
from tests.faults.bank.worker import TRY_AGAIN, entered, when_entered
from tests.faults.saga_bank.mutants import MUTANTS
from tests.faults.saga_bank.transfer import PARTICIPANTS, VERSIONS, wish

AT_ONCE = 10
MOST_OPEN = 40  # transfers on their way, of all clients
LEASE = timedelta(seconds=3)  # of a call; a worker is frozen for longer


class Client:
    """Asks for transfers while not too many are on their way, whatever the database does."""

    def __init__(self, bus: EventBus, slot: int, slots: int, most: int, enough: Path) -> None:
        self._bus = bus
        self._slot = slot
        self._slots = slots
        self._most = most
        self._enough = enough

    async def run(self) -> None:
        """Until there are enough."""
        while not self._enough.exists():
            try:
                if await self._ask() == 0:
                    await asyncio.sleep(0.2)
            except StorageError:
                await asyncio.sleep(0.2)

    async def _ask(self) -> int:
        async with self._bus.transaction() as tx:
            (row,) = await tx.sql.fetch(
                "SELECT (SELECT coalesce(max(number) / $2, 0) FROM requests WHERE number % $2 = $1)"
                " AS last, (SELECT count(*) FROM requests) - (SELECT count(*) FROM bank.saga"
                " WHERE finished_at IS NOT NULL) AS open",
                self._slot,
                self._slots,
            )
            amount: int = max(0, min(AT_ONCE, self._most - row["open"]))
            for place in range(amount):
                number = (row["last"] + 1 + place) * self._slots + self._slot
                await tx.sql.execute("INSERT INTO requests (number) VALUES ($1)", number)
                await tx.publish(wish(number))
        return amount


async def work(transport: str, storage: str, directory: Path, name: str, argv: list[str]) -> bool:
    """Until SIGTERM; True: it drained, nothing was cut."""
    slot, slots, versions = int(argv[0]), int(argv[1]), argv[2].split(",")
    handlers = [*(VERSIONS[each] for each in versions), *PARTICIPANTS]
    bus = EventBus(transport, storage=storage, handlers=handlers, service="bank")
    client = Client(bus, slot, slots, MOST_OPEN, directory / "enough")
    running = asyncio.create_task(bus.run(), name="worker:bus")
    await when_entered(bus, running, entered(directory, name))
    asking = asyncio.create_task(client.run(), name=f"client:{slot}")
    try:
        return await running
    finally:
        asking.cancel()
        await asyncio.wait([asking])


def _set_clock_wrong(seconds: float) -> None:
    """What Python's `time` says to everybody in this process; the monotonic clock stays true."""
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)


def main() -> int:
    """The process."""
    transport, storage, directory, name, *argv = sys.argv[1:]
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started us
    calls.LEASE = LEASE
    if float(argv[3]):
        _set_clock_wrong(float(argv[3]))
    for each in argv[4:]:
        MUTANTS[each]()
    try:
        drained = asyncio.run(work(transport, storage, Path(directory), name, argv))
    except (StorageError, TransportError) as error:
        logging.warning("cannot enter: %s", error)
        return TRY_AGAIN
    return 0 if drained else 1


if __name__ == "__main__":
    sys.exit(main())
