"""What the client logs, once a minute of each kind: a broker that is away is many lines a second.

Our own lines say it once. Whoever gives `aiokafka` a handler of its own gets every line.
"""

import logging
import time
from collections.abc import Callable

AGAIN_SECONDS = 60.0
MOST = 200  # kinds that are remembered


class Chatter(logging.Handler):
    """Hands the first line of a kind in a minute on to the handlers of the root, if it has any.

    Args:
        clock: in seconds; any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._told: dict[tuple[str, str], float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """The first of its kind, or the first after a minute."""
        now, kind = self._clock(), (record.name, str(record.msg))
        if now < self._told.get(kind, now):
            return
        if len(self._told) >= MOST:
            self._told.clear()
        self._told[kind] = now + AGAIN_SECONDS
        root = logging.getLogger()
        if root.handlers:  # or the last resort of `logging` prints it
            root.callHandlers(record)


def calm() -> None:
    """Put it before the root, once in a process."""
    logger = logging.getLogger("aiokafka")
    if not any(isinstance(one, Chatter) for one in logger.handlers):
        logger.addHandler(Chatter())
        logger.propagate = False
