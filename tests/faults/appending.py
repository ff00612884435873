"""Writers of every kind on a few streams, slow ones too, and readers of the feed all the while.

What each believes is written down; what stands there in the end judges it (K5, K7).
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from eventbus.errors import CommitUnknownError, ConcurrencyError, EventBusError
from eventbus.message import Message
from eventbus.storage import Storage, Transaction
from eventbus.storage.events import Append, Expected, Position
from eventbus.testing.conformance.samples import some_messages, unique
from tests.faults.checkers.expected_versions import expected_versions
from tests.faults.checkers.transactions import transactions
from tests.faults.checkers.verdict import Verdict
from tests.faults.history import History, merged

OTHERS: Sequence[Expected] = ("any", "any", "present", "absent")


class UndoneError(Exception):
    """The writer thinks better of it."""


@dataclass(slots=True)
class World:
    """What the tasks share."""

    storages: Sequence[Storage]
    operations: int  # of all writers together
    seed: int
    streams: Sequence[str]
    heads: dict[str, int] = field(default_factory=dict)  # as far as somebody told
    histories: list[History] = field(default_factory=list)
    seen: dict[str, list[str]] = field(default_factory=dict)  # ids by reader
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)
    done: int = 0
    writing: int = 0  # tasks whose last operation is not over: readers have not seen all
    held: int = 0  # times that a slow writer held the feed back
    early: int = 0
    undone: int = 0
    repeated: int = 0
    told: list[tuple[Sequence[str], str]] = field(default_factory=list)  # ids, and their fate

    async def resolve(self, ids: Sequence[str], error: CommitUnknownError) -> None:
        """Ask what became of a commit whose reply was lost."""
        with suppress(EventBusError):  # this reply is lost as well
            self.told.append((ids, await error.resolve()))

    async def count(self) -> None:
        """One operation more."""
        self.done += 1
        async with self.moved:
            self.moved.notify_all()

    def ended(self, _: "asyncio.Task[None]") -> None:
        """A writer has ended."""
        self.writing -= 1

    async def until(self, done: int) -> None:
        """That many operations are over, or all."""
        async with self.moved:
            await self.moved.wait_for(lambda: self.done >= min(done, self.operations))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    verdicts: Sequence[Verdict]
    false: Sequence[str]  # what was told of unknown commits, and is not so
    figures: Mapping[str, int]


async def run(
    storages: Sequence[Storage], *, operations: int, writers: int, streams: int, seed: int
) -> Outcome:
    """Write until all operations are over, read to the end, and judge."""
    start = (await storages[0].read_bound()).head
    world = World(storages, operations, seed, [unique("order") for _ in range(streams)])
    slow = [unique("slow") for _ in storages]
    async with asyncio.TaskGroup() as tasks:
        writing = [_write(world, number) for number in range(writers)]
        writing += [_hold(world, number, name) for number, name in enumerate(slow)]
        world.writing = len(writing)
        for number, each in enumerate(writing):
            task = tasks.create_task(each, name=f"append:{number}")
            task.add_done_callback(world.ended)
        for number in range(len(storages)):
            name = f"reader{number}"
            tasks.create_task(_read(world, number, name, start), name=f"read:{number}")
    world.seen = {"end": [], **world.seen}
    await _read(world, 0, "end", start)
    standing = {name: await _standing(storages[0], name) for name in [*world.streams, *slow]}
    history = merged([each.operations for each in world.histories])
    verdicts = [
        expected_versions(history, standing),
        transactions(history, standing, world.seen),
    ]
    figures = {
        "operations": world.done,
        "events": len(world.seen["end"]),
        **{name: getattr(world, name) for name in ("held", "early", "undone", "repeated")},
        "unknown": sum(line.type == "info" for line in history),
        "resolved": sum(fate != "unknown" for _, fate in world.told),
    }
    return Outcome(verdicts, _false(world), figures)


def _false(world: World) -> list[str]:
    """Row 19: whoever asks what became of an unknown commit is told the truth."""
    seen = set(world.seen["end"])
    return [
        f"{fate}, and {sum(one in seen for one in ids)} of {len(ids)} are there: {ids}"
        for ids, fate in world.told
        if fate != "unknown" and [one in seen for one in ids] != [fate == "committed"] * len(ids)
    ]


async def _write(world: World, number: int) -> None:
    dice = random.Random(f"{world.seed}/{number}")
    history = History(f"writer{number}")
    world.histories.append(history)
    storage = world.storages[number % len(world.storages)]
    while world.done < world.operations:
        if dice.random() < 0.6:
            await _single(world, storage, history, dice)
        else:
            await _several(world, storage, history, dice)
        await world.count()


async def _single(world: World, storage: Storage, history: History, dice: random.Random) -> None:
    """One append, a commit of its own; perhaps the same ids once more."""
    stream = dice.choice(world.streams)
    expected = world.heads.get(stream, 0) if dice.random() < 0.8 else dice.choice(OTHERS)
    append = Append(stream=stream, messages=some_messages(dice.randint(1, 3)), expected=expected)
    noted = _Noted(history, [append])
    try:
        appended = await storage.append(append)
    except ConcurrencyError as error:
        world.heads[stream] = error.version or 0
        noted.refused(error.version or 0)
    except CommitUnknownError as error:
        noted.unknown()
        await world.resolve(_ids(append.messages), error)
    except EventBusError:
        noted.failed()
    else:
        world.heads[stream] = appended.version
        noted.done({stream: appended.version}, {})
        if dice.random() < 0.1:
            with suppress(EventBusError):
                assert (await storage.append(append)).repeated, append
                world.repeated += 1


async def _several(world: World, storage: Storage, history: History, dice: random.Random) -> None:
    """Two streams read, and appended to as they were read, in one transaction."""
    names = sorted(dice.sample(world.streams, 2))
    noted: _Noted | None = None
    try:
        async with storage.transaction() as tx:
            if dice.random() < 0.3:  # its transaction id is older than those of many who end first
                await tx.sql.fetch("SELECT pg_current_xact_id()::text AS id")
                world.early += 1
            if dice.random() < 0.2:
                await _in_vain(tx, names[0])
            reads = {name: await _last(tx, name) for name in names}
            appends = [
                Append(stream=name, messages=some_messages(dice.randint(1, 2)), expected=version)
                for name, (version, _) in reads.items()
            ]
            noted = _Noted(history, appends)
            versions = {}
            for append in appends:
                noted.at = append.stream
                versions[append.stream] = (await tx.events.append(append)).version
            noted.at = ""
            _perhaps_undone(dice)
    except UndoneError:
        world.undone += 1
        assert noted is not None
        noted.failed()
    except ConcurrencyError as error:
        assert noted is not None
        noted.refused(error.version or 0)
    except CommitUnknownError as error:
        assert noted is not None
        noted.unknown()
        await world.resolve(noted.ids, error)
    except EventBusError:
        if noted is not None:
            noted.failed()
    else:
        world.heads.update(versions)
        noted.done(versions, reads)


def _perhaps_undone(dice: random.Random) -> None:
    if dice.random() < 0.1:
        raise UndoneError


async def _in_vain(tx: Transaction, stream: str) -> None:
    with suppress(UndoneError, ConcurrencyError):
        async with tx.savepoint():
            await tx.events.append(Append(stream=stream, messages=some_messages(1), expected="any"))
            raise UndoneError


async def _last(tx: Transaction, stream: str) -> tuple[int, str]:
    found = await tx.events.read_stream(stream, backwards=True, limit=1)
    return (found[0].version, found[0].message.id) if found else (0, "")


async def _hold(world: World, number: int, stream: str) -> None:
    """Draw a position, and stay open while many others commit behind it."""
    storage, version = world.storages[number % len(world.storages)], 0
    history = History(f"slow{number}")
    world.histories.append(history)
    every = max(20, world.operations // 50)
    while world.done < world.operations:
        append = Append(stream=stream, messages=some_messages(1), expected=version)
        noted = _Noted(history, [append])
        try:
            async with storage.transaction() as tx:
                appended = await tx.events.append(append)
                await world.until(world.done + every)
        except CommitUnknownError:
            noted.unknown()
            return
        except EventBusError:
            noted.failed()
            continue
        version = appended.version
        noted.done({stream: version}, {})
        world.held += 1


async def _read(world: World, number: int, name: str, after: Position) -> None:
    """The feed as it grows, to its end."""
    storage = world.storages[number]
    seen = world.seen.setdefault(name, [])
    dice = random.Random(name)
    while True:
        last = not world.writing
        try:
            async with storage.transaction() as tx:
                page = await tx.events.read_all(after=after, limit=dice.choice([3, 50, 1000]))
            head = (await storage.read_bound()).head
        except EventBusError:
            continue
        seen += [one.message.id for one in page.events]
        if page.read_to == after and last and page.bound == head:
            return
        if page.read_to == after:
            await asyncio.sleep(0)
        after = page.read_to


async def _standing(storage: Storage, stream: str) -> list[str]:
    found: list[str] = []
    while True:
        async with storage.transaction() as tx:
            page = await tx.events.read_stream(stream, after=len(found), limit=1000)
        if not page:
            return found
        found += [one.message.id for one in page]


class _Noted:
    """An operation in the history: a step, and an append to each of its streams."""

    def __init__(self, history: History, appends: Sequence[Append]) -> None:
        self.at = appends[0].stream if len(appends) == 1 else ""  # whose verdict is waited for
        self._history = history
        self._ids = {append.stream: _ids(append.messages) for append in appends}
        self._appends = {
            append.stream: history.invoke(
                "append",
                key=append.stream,
                value={"ids": self._ids[append.stream], "expected": append.expected},
            )
            for append in appends
        }
        self._step = history.invoke("step")

    @property
    def ids(self) -> list[str]:
        """Of all its streams."""
        return [one for ids in self._ids.values() for one in ids]

    def done(self, versions: Mapping[str, int], reads: Mapping[str, Any]) -> None:
        self._end("ok", {name: {"version": version} for name, version in versions.items()}, reads)

    def refused(self, version: int) -> None:
        self._end("fail", {self.at: {"version": version}}, {})

    def failed(self) -> None:
        self._end("fail", {}, {})

    def unknown(self) -> None:
        self._end("info", {}, {})

    def _end(self, type: Any, told: Mapping[str, Any], reads: Mapping[str, Any]) -> None:
        for name, number in self._appends.items():
            self._history.note("append", type, number, key=name, value=told.get(name, {}))
        value = {"appends": self._ids, "reads": reads}
        self._history.note("step", type, self._step, value=value)


def _ids(messages: Sequence[Message]) -> list[str]:
    return [message.id for message in messages]
