"""All ways to append, to streams and by ids that belong to the place of the kill."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import NAMESPACE_URL, uuid5

from eventbus.message import Message
from eventbus.storage import Storage
from eventbus.storage.events import Append, Expected


@dataclass(frozen=True)
class Job:
    """What is appended; each to a stream of its own."""

    alone: Append
    together: Sequence[Append]  # merged into one call
    whatever: Append  # of no expected version
    both: Sequence[Append]  # in one transaction
    loaded: Sequence[Append]

    @property
    def appends(self) -> Sequence[Append]:
        """All of it."""
        return [self.alone, *self.together, self.whatever, *self.both, *self.loaded]


def job(place: int) -> Job:
    """The one of a place: whoever asks again gets the same ids."""

    def append(name: str, expected: Expected, *, publish: bool = True) -> Append:
        stream = f"order-{place}-{name}"
        messages = [_message(f"{stream}/{number}") for number in range(3)]
        out = messages if publish else ()
        return Append(stream=stream, messages=messages, expected=expected, publish=out)

    return Job(
        alone=append("alone", "absent"),
        together=[append(f"together{number}", 0) for number in range(4)],
        whatever=append("whatever", "any"),
        both=[append("left", 0), append("right", "absent")],
        loaded=[append(f"loaded{number}", "absent", publish=False) for number in range(3)],
    )


async def work(storage: Storage, todo: Job) -> None:
    """The whole job, one way after the other."""
    await storage.append(todo.alone)
    async with asyncio.TaskGroup() as tasks:
        for number, each in enumerate(todo.together):
            tasks.create_task(_append(storage, each), name=f"append:{number}")
    await storage.append(todo.whatever)
    async with storage.transaction() as tx:
        for each in todo.both:
            await tx.events.append(each)
    await storage.load_events(todo.loaded, skip=True)


async def _append(storage: Storage, append: Append) -> None:
    await storage.append(append)


def _message(name: str) -> Message:
    return Message(
        id=str(uuid5(NAMESPACE_URL, name)),
        type="shop.order-placed",
        source="/appender",
        topic="shop",
        payload=b"1",
        key=None,
    )
