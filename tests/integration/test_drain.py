"""Signals, drain and the hard stop, with real processes."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

WORKER = """
    import asyncio, sys
    from datetime import timedelta
    from eventbus import Event, EventBus, Group, subscribe

    class Placed(Event, type="drain.placed", key="order"):
        order: str
        number: int

    @subscribe(Placed, group=Group("g", lanes=1))
    async def handler(event: Placed) -> None:
        print("began", event.number, flush=True)
        {work}
        print("ended", event.number, flush=True)

    bus = EventBus("memory://", storage="sqlite:///" + sys.argv[1], handlers=[handler])

    async def main() -> None:
        async with bus.client():
            for number in range(3):
                await bus.publish(Placed(order="A", number=number))
        drained = await bus.run(grace=timedelta(seconds={grace}))
        print("drained" if drained else "cut", flush=True)

    asyncio.run(main())
"""


def worker(database: Path, work: str, grace: float) -> "subprocess.Popen[str]":
    program = textwrap.dedent(WORKER).format(work=work, grace=grace)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(database)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def lines(process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.strip()


def until(process: "subprocess.Popen[str]", wanted: str) -> list[str]:
    seen = []
    for line in lines(process):
        seen.append(line)
        if line == wanted:
            return seen
    raise AssertionError(f"{wanted!r} never came: {seen}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_handler_end_and_starts_no_other(
    tmp_path: Path, number: signal.Signals
) -> None:
    with worker(tmp_path / "bus.db", "await asyncio.sleep(0.5)", 10) as process:
        until(process, "began 0")
        process.send_signal(number)
        rest = list(lines(process))
    assert rest == ["ended 0", "drained"]
    assert process.returncode == 0
    with worker(tmp_path / "bus.db", "pass", 10) as again:
        seen = until(again, "ended 2")
        again.send_signal(signal.SIGTERM)
        list(lines(again))
    assert [line for line in seen if line.startswith("began")] == ["began 1", "began 2"]


def test_what_does_not_end_within_the_grace_is_cancelled_and_comes_again(tmp_path: Path) -> None:
    with worker(tmp_path / "bus.db", "await asyncio.sleep(60)", 0.3) as process:
        until(process, "began 0")
        process.send_signal(signal.SIGTERM)
        rest = list(lines(process))
    assert rest == ["cut"]
    with worker(tmp_path / "bus.db", "pass", 10) as again:
        seen = until(again, "ended 2")
        again.send_signal(signal.SIGTERM)
        list(lines(again))
    assert seen == [f"{verb} {number}" for number in range(3) for verb in ("began", "ended")]


def test_a_second_signal_ends_the_process_at_once(tmp_path: Path) -> None:
    swallow = "\n    ".join(
        ["try:", "    await asyncio.sleep(60)", "finally:", "    await asyncio.sleep(60)"]
    )
    with worker(tmp_path / "bus.db", swallow, 30) as process:
        until(process, "began 0")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        list(lines(process))
    assert process.returncode in {130, 143}
