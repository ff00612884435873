"""Ask a service with an asynchronous client from where no loop of ours runs."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def apart(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a loop and a thread of its own, so that it can be asked for from everywhere.

    A fixture may be set up while the loop of a test runs, and `asyncio.run` would take away the
    loop that a plugin has set for this thread.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:  # handed over: the caller raises it
            errors.append(error)

    thread = threading.Thread(target=run, name="services:ask")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
