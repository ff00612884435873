"""Lines of a service that waits: it looks again each second, and would fill the log."""

import logging
import time
from collections.abc import Callable

AGAIN_SECONDS = 60.0


class SeldomLog:
    """Each kind of line at once, then once a minute with how many there were; then that it is over.

    Args:
        log: where they go.
        clock: in seconds; any start.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}  # when, and how many since

    def tell(
        self, kind: str, text: str, *args: object, level: int = logging.WARNING, trace: bool = False
    ) -> None:
        """A line, if this kind is new, or a minute has passed since the last one.

        Args:
            kind: few: the code of an error.
            text: as for `logging`.
            *args: of the text.
            level: of the line.
            trace: with the traceback of what is handled.
        """
        at, since = self._told.get(kind, (None, 0))
        now = self._clock()
        if at is not None and now - at < AGAIN_SECONDS:
            self._told[kind] = (at, since + 1)
            return
        more = f" ({since} more in between)" if since else ""
        self._log.log(level, f"{text}%s", *args, more, exc_info=trace)
        self._told[kind] = (now, 0)

    def over(self, text: str, *args: object) -> None:
        """It goes on: say so if it was told that it did not; the next time is told at once."""
        if self._told:
            self._told.clear()
            self._log.info(text, *args)
