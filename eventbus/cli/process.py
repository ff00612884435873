"""What a long-running command sets up, signals and the event loop, and how it ends."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

from eventbus.cli.failures import DONE
from eventbus.errors import MissingExtraError

log: logging.Logger = logging.getLogger("eventbus.cli")

LAST_SECONDS = 1.0  # for tasks that end when they are told to
APART = 100_000  # new objects between two looks of the garbage collector, instead of 700


def collect_rarely() -> None:
    """Let the garbage collector of this process look seldom.

    What a batch or a scan holds stays to its end: to look through it again and again finds
    nothing, and is a fifth of the CPU time of a worker that projects, and a quarter of that of a
    rebuild (measured: decision 0031). Cycles that handlers make are found all the same, later.
    """
    _, *older = gc.get_threshold()
    gc.set_threshold(APART, *older)


@contextmanager
def ending_early() -> Iterator[None]:
    """SIGTERM ends this process well until a bus takes the signal: there is nothing to drain yet.

    Without it the first process of a container is deaf to one that comes while the app is imported.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # nobody else can take signals
        return
    told = False

    def end(number: int, frame: object) -> None:
        nonlocal told
        told = True
        raise SystemExit(DONE)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except Exception as error:
        if told:  # what the signal broke in half is no failure of the app
            raise SystemExit(DONE) from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The one of uvloop where it is wanted and installed; None: asyncio's own.

    Raises:
        MissingExtraError: EB1005, it is wanted by name and not installed.
    """
    if name == "asyncio":
        return None
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError as error:
        if name == "auto":
            return None
        raise MissingExtraError(
            "EB1005",
            "uvloop is not installed",
            where="--loop uvloop",
            why="it is no dependency of eventbus",
            next="pip install uvloop | --loop auto",
        ) from error
    return factory


def leave_what_hangs(runner: asyncio.Runner, code: int) -> None:
    """End the process at once if a handler ignores its end: a loop waits for it without a limit.

    Only when the grace is used up; what the handler would still write is rolled back.
    """
    tasks = runner.run(_what_hangs())
    threads = [each.name for each in threading.enumerate() if each.name.startswith("eventbus-")]
    if tasks or threads:
        log.error("ended without waiting for %s", ", ".join([*tasks, *threads]))
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


async def _what_hangs() -> list[str]:
    """The names of the tasks that go on though they are cancelled."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=LAST_SECONDS)
    return [task.get_name() for task in tasks if not task.done()]
