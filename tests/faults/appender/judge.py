"""What a dead appender left, and what stands there once its job was done again."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from eventbus.codec import Registry
from eventbus.inspection import Inspected, Selection
from eventbus.sourcing.reader import EventReader
from eventbus.storage import Storage, open_storage
from eventbus.storage.events import Append
from tests.faults.appender.job import Job, job, work


async def judged(url: str, place: int) -> list[str]:
    """Do the job again, with the same ids; everything that is wrong before and after."""
    todo = job(place)
    async with open_storage(url, "judge") as storage:
        wrong = await _halves(storage, todo)
        await work(storage, todo)
        return wrong + await _doubles(storage, todo)


async def _halves(storage: Storage, todo: Job) -> list[str]:
    there = await _fed(storage, todo)
    wrong = [
        f"half an append: {each.stream} has {len(there[each.stream])}"
        for each in todo.appends
        if there[each.stream] not in ([], _ids(each))
    ]
    return wrong + [
        f"half a transaction: {[each.stream for each in commit]}"
        for commit in (todo.both, todo.loaded)
        if len({bool(there[each.stream]) for each in commit}) != 1
    ]


async def _doubles(storage: Storage, todo: Job) -> list[str]:
    wrong = []
    fed, rows = await _fed(storage, todo), await _outbox(storage)
    for each in todo.appends:
        async with storage.transaction() as tx:
            read = [one.message.id for one in await tx.events.read_stream(each.stream)]
        if not read == fed[each.stream] == _ids(each):
            wrong.append(f"{each.stream} has {read}, and in the feed {fed[each.stream]}")
        out = [row["id"] for row in rows if row["headers"].get("subject") == each.stream]
        if out != [one.id for one in each.publish]:
            wrong.append(f"{each.stream} goes out as {len(out)} messages")
    return wrong


async def _fed(storage: Storage, todo: Job) -> dict[str, list[str]]:
    """Ids by stream, up to one bound: what commits meanwhile is above it, all of it."""
    found: dict[str, list[str]] = {each.stream: [] for each in todo.appends}
    async with aclosing(EventReader(storage, Registry()).search()) as feed:
        async for one in feed:
            if one.recorded.stream in found:
                found[one.recorded.stream].append(one.recorded.message.id)
    return found


async def _outbox(storage: Storage) -> Sequence[Mapping[str, Any]]:
    inspection = cast("Inspected", storage).inspection
    return await inspection.find(Selection(place="outbox"), limit=10_000)


def _ids(append: Append) -> list[str]:
    return [message.id for message in append.messages]
