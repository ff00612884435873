"""Merged appends: what is in one call, what waits, who hears of a failure."""

import asyncio
from collections.abc import Sequence

import pytest

from eventbus.message import Message
from eventbus.storage import merging
from eventbus.storage.events import Append, Appended, Position
from eventbus.storage.merging import Merging, Verdict


class Store:
    """Answers when it is told to, and notes what came in one call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.bad: set[str] = set()
        self.inside: list[str] = []
        self.open = asyncio.Event()

    async def write(self, appends: Sequence[Append]) -> Sequence[Verdict]:
        streams = [append.stream for append in appends]
        self.calls.append(streams)
        self.inside += streams
        assert len(set(self.inside)) == len(self.inside), "a stream is in two calls"
        await self.open.wait()
        await asyncio.sleep(0)
        for stream in streams:
            self.inside.remove(stream)
        if self.bad & {append.stream for append in appends}:
            raise OSError("bad bytes")
        return [
            Appended(version=len(append.messages), position=Position(2), repeated=False)
            for append in appends
        ]


def some_append(stream: str, *, events: int = 1, size: int = 1) -> Append:
    messages = [
        Message(id=f"{number}", type="t", source="s", topic="t", payload=b"x" * size)
        for number in range(events)
    ]
    return Append(stream=stream, messages=messages, expected="any")


async def appended(
    store: Store, *appends: Append, lanes: int = 1
) -> list[Appended | BaseException]:
    """All of them at once; the store answers once all have come."""
    merged = Merging(store.write, lanes=lanes)
    tasks = [
        asyncio.create_task(merged.append(append), name=f"append:{number}")
        for number, append in enumerate(appends)
    ]
    done = asyncio.gather(*tasks, return_exceptions=True)
    asyncio.get_running_loop().call_later(0.01, store.open.set)
    found = await done
    await merged.finish()
    return found


async def test_an_idle_caller_goes_at_once_and_those_that_come_meanwhile_go_together() -> None:
    store = Store()
    await appended(store, *(some_append(name) for name in "abcd"))
    assert store.calls == [["a"], ["b", "c", "d"]]


async def test_two_lanes_are_two_calls_at_once() -> None:
    store = Store()
    await appended(store, *(some_append(name) for name in "abcd"), lanes=2)
    assert store.calls == [["a"], ["b"], ["c", "d"]]


async def test_a_stream_is_in_one_call_at_a_time_and_in_its_order() -> None:
    store = Store()
    await appended(store, *(some_append(name) for name in "aabab"), lanes=2)
    assert store.calls[:2] == [["a"], ["b"]]
    assert sorted(name for call in store.calls for name in call) == list("aaabb")


@pytest.mark.parametrize(
    ("appends", "calls"),
    [
        ([some_append(f"{n}") for n in range(merging.REQUESTS + 2)], [1, merging.REQUESTS, 1]),
        ([some_append(f"{n}", events=merging.EVENTS // 2) for n in range(4)], [1, 2, 1]),
        ([some_append(f"{n}", size=merging.BYTES // 2) for n in range(4)], [1, 2, 1]),
        ([some_append(f"{n}", size=merging.BYTES * 2) for n in range(3)], [1, 1, 1]),
    ],
)
async def test_a_call_has_its_limits(appends: list[Append], calls: list[int]) -> None:
    store = Store()
    await appended(store, *appends)
    assert [len(call) for call in store.calls] == calls


async def test_a_call_that_fails_is_repeated_one_by_one_and_only_the_guilty_one_hears_of_it() -> (
    None
):
    store = Store()
    store.bad = {"c"}
    found = await appended(store, *(some_append(name) for name in "abcd"))
    assert [isinstance(each, OSError) for each in found] == [False, False, True, False]
    assert store.calls == [["a"], ["b", "c", "d"], ["b"], ["c"], ["d"]]


async def test_who_is_cancelled_before_the_call_is_not_in_it() -> None:
    store = Store()
    merged = Merging(store.write, lanes=1)
    tasks = [
        asyncio.create_task(merged.append(some_append(name)), name=f"append:{name}")
        for name in "abc"
    ]
    await asyncio.wait(tasks, timeout=0)
    tasks[1].cancel()
    store.open.set()
    await asyncio.wait(tasks)
    assert store.calls == [["a"], ["c"]]
    assert tasks[1].cancelled()


async def test_who_finds_nothing_waiting_writes_in_its_own_task() -> None:
    writers: list[asyncio.Task[object] | None] = []

    async def write(appends: Sequence[Append]) -> Sequence[Verdict]:
        writers.append(asyncio.current_task())
        return [Appended(version=1, position=Position(2), repeated=False) for _ in appends]

    merged = Merging(write, lanes=1, direct=True)
    await merged.append(some_append("a"))
    assert writers == [asyncio.current_task()]


async def test_those_that_come_while_one_writes_itself_go_together_and_in_order() -> None:
    store = Store()
    merged = Merging(store.write, lanes=1, direct=True)
    tasks = [
        asyncio.create_task(merged.append(some_append(name)), name=f"append:{name}")
        for name in "abac"
    ]
    await asyncio.wait(tasks, timeout=0)
    store.open.set()
    await asyncio.wait(tasks)
    assert store.calls == [["a"], ["b", "a", "c"]]


async def test_who_is_cancelled_while_it_writes_itself_holds_up_nobody() -> None:
    store = Store()
    merged = Merging(store.write, lanes=1, direct=True)
    first, second = (
        asyncio.create_task(merged.append(some_append(name)), name=f"append:{name}")
        for name in "ab"
    )
    await asyncio.wait([first, second], timeout=0)
    first.cancel()
    store.open.set()
    await asyncio.wait([first, second])
    assert first.cancelled()
    assert second.result().version == 1


async def test_a_refusal_is_told_by_who_writes_itself() -> None:
    store = Store()
    store.bad = {"a"}
    store.open.set()
    merged = Merging(store.write, lanes=1, direct=True)
    with pytest.raises(OSError, match="bad bytes"):
        await merged.append(some_append("a"))
    assert (await merged.append(some_append("b"))).version == 1


async def test_the_end_waits_for_who_writes_itself() -> None:
    store = Store()
    merged = Merging(store.write, lanes=2, direct=True)
    writing = asyncio.create_task(merged.append(some_append("a")), name="append:a")
    await asyncio.wait([writing], timeout=0)
    ending = asyncio.create_task(merged.finish(), name="end:1")
    await asyncio.wait([ending], timeout=0)
    assert not ending.done()
    store.open.set()
    await ending
    await writing
