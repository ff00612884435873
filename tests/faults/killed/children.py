"""Forked processes: nobody has a loop or a thread when they begin, and each has a history."""

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.faults.history import History

Work = Callable[[History], Awaitable[None]]


def forked(directory: Path, name: str, work: Work) -> int:
    """Begin to work in a process of its own; its pid. Its exit code is 1 after any error."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        random.seed()
        logging.disable(logging.CRITICAL)
        history = History(name, path=directory / f"{name}.jsonl")
        asyncio.run(_working(work, history))
        status = 0
    except BaseException as error:  # the parent must hear of anything
        (directory / f"{name}.error").write_text(repr(error))
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    """Its exit code, or the negative number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def stopped_or_ended(pid: int) -> bool:
    """Whether it has stopped itself; False: it has ended."""
    return os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])


async def _working(work: Work, history: History) -> None:
    await work(history)
