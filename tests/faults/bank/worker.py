"""One process of the bank: clients of some accounts, relay, groups, redelivery.

`python -m tests.faults.bank.worker TRANSPORT STORAGE DIRECTORY NAME SLOT SLOTS [MUTANT]`. Its
clients publish until `DIRECTORY/enough` is there; it ends by SIGTERM. Exit code 75: broker or
database was away when the bus was entered, or a group gave its broker up: start it again.
"""

import asyncio
import logging
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from eventbus import EventBus
from eventbus.errors import CommitUnknownError, StorageError, TransportError
from tests.faults.bank.mutants import MUTANTS
from tests.faults.bank.transfers import ACCOUNTS, HANDLERS, Requested, Wish, request, wish
from tests.faults.history import History

TRY_AGAIN = 75  # EX_TEMPFAIL
LOOK_SECONDS = 0.5  # 64 clients that ask twenty times a second leave others no time to work
MOST_UNDONE = 6  # transfers of an account that its client leaves open before it asks for more


class Client:
    """Publishes the transfers of one account, one after another, whatever the database does."""

    def __init__(self, bus: EventBus, account: str, history: History, enough: Path) -> None:
        self._bus = bus
        self._account = account
        self._history = history
        self._enough = enough

    async def run(self, running: "asyncio.Task[bool]") -> None:
        """Until there are enough, or the bus ends."""
        while not (self._enough.exists() or running.done()):
            try:
                requested, undone = await self._standing()
                if undone >= MOST_UNDONE:
                    await asyncio.sleep(LOOK_SECONDS)
                    continue
                await self._publish(wish(self._account, requested + 1))
            except StorageError:
                await asyncio.sleep(0.2)

    async def _standing(self) -> tuple[int, int]:
        async with self._bus.transaction() as tx:
            rows = await tx.sql.fetch(
                "SELECT (SELECT max(seq) FROM requests WHERE source = $1) AS requested,"
                " (SELECT max(seq) FROM effects WHERE key = $1 AND grp = 'confirm') AS done",
                self._account,
            )
        requested = rows[0]["requested"] or 0
        return requested, requested - (rows[0]["done"] or 0)

    async def _publish(self, wanted: Wish) -> None:
        facts: dict[str, Any] = {"key": wanted.source, "seq": wanted.seq}
        op = self._history.invoke("publish", **facts)
        try:
            async with self._bus.transaction() as tx:
                message_id = facts["id"] = await tx.publish(Requested(**wanted._asdict()))
                self._history.note("publish", "invoke", op, **facts)
                await request(tx, wanted, message_id)
        except CommitUnknownError as error:
            became = "unknown"
            with suppress(StorageError):
                became = await error.resolve()
            self._history.note("publish", _TYPES[became], op, value={"resolved": became}, **facts)
        except StorageError as error:
            self._history.note("publish", "fail", op, value={"code": error.code}, **facts)
            raise
        else:
            self._history.note("publish", "ok", op, **facts)


_TYPES: dict[str, Any] = {"committed": "ok", "rolled_back": "fail", "unknown": "info"}


async def work(
    transport: str, storage: str, directory: Path, name: str, slot: int, slots: int
) -> bool:
    """Until SIGTERM; True: it drained, nothing was cut."""
    bus = EventBus(transport, storage=storage, handlers=HANDLERS, service="bank")
    enough = directory / "enough"
    history = History(name, path=directory / f"{name}.jsonl")
    accounts = [f"a{number}" for number in range(slot, ACCOUNTS, slots)]
    clients = [Client(bus, account, history, enough) for account in accounts]
    running = asyncio.create_task(bus.run(), name="worker:bus")
    await when_entered(bus, running, entered(directory, name))
    async with asyncio.TaskGroup() as tasks:
        for client, account in zip(clients, accounts, strict=True):
            tasks.create_task(client.run(running), name=f"client:{account}")
    return await running


def entered(directory: Path, name: str) -> Path:
    """The file that is there once this worker has entered: from then on SIGTERM drains."""
    return directory / f"{name}.entered"


async def when_entered(bus: EventBus, running: "asyncio.Task[bool]", mark: Path) -> None:
    """Wait for that, or for an end before it."""
    while not running.done() and "not entered" in (await bus.health()).causes:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.02)
    if not running.done():
        mark.touch()  # noqa: ASYNC240 - once, and it is empty


def main() -> int:
    """The process."""
    transport, storage, directory, name, slot, slots, *mutant = sys.argv[1:]
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started us
    for each in mutant:
        MUTANTS[each]()
    try:
        drained = asyncio.run(
            work(transport, storage, Path(directory), name, int(slot), int(slots))
        )
    except (StorageError, TransportError) as error:
        logging.warning("to be started again: %s", error)
        return TRY_AGAIN
    return 0 if drained else 1


if __name__ == "__main__":
    sys.exit(main())
