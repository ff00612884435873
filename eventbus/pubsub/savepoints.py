"""Which batches go without savepoints: with them every message costs a round trip more."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from eventbus.pubsub.call import Call
from eventbus.pubsub.routes import Handler
from eventbus.storage import StorageCapabilities

CAREFUL_MESSAGES = 1_000  # after a failure: batches of 50 then run at most 5 % of messages twice


class Savepoints:
    """Whether the next batch of a group needs them: it does for a while after a failure.

    A batch without is undone as a whole when a message of it fails, and runs again with them. So
    handlers before the guilty one run twice: as after a crash, and their SQL counts once.
    """

    def __init__(self, capabilities: StorageCapabilities) -> None:
        self._costly = capabilities.distant
        self._careful = 0  # messages that still get one

    def needed(self, calls: Sequence[Call]) -> bool:
        """Whether they are: for what does not gain by running without, always."""
        if self._careful > 0:
            self._careful -= len(calls)
            return True
        return not self._costly or len(calls) == 1 or not all(map(_gains, calls))

    @contextmanager
    def spared(self) -> Iterator[None]:
        """Around a batch without them: what fails it is not met again unprepared."""
        try:
            yield
        except Exception:  # of a handler, or of the database because of one
            self._careful = CAREFUL_MESSAGES
            raise


def _gains(call: Call) -> bool:
    one_by_one = call.route.batches is None  # what is handled as a batch has no savepoints to spare
    return one_by_one and call.wrong is None and all(map(_writes_alone, call.route.handlers))


def _writes_alone(handler: Handler) -> bool:
    """Whether it has a savepoint to itself, and all it may do is undone with the transaction."""
    return handler.plain and handler.takes_context and not handler.batch
