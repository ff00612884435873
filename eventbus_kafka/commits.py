"""The one task that commits: explicit offsets, fenced by their assignment (T18, T20)."""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from eventbus.service import end
from eventbus_kafka.clients import within
from eventbus_kafka.delivery import Assigned
from eventbus_kafka.errors import CLIENT_ERRORS, described, transport_error
from eventbus_kafka.watermark import Mark

log: logging.Logger = logging.getLogger("eventbus.kafka")

COMMIT_SECONDS = 10.0
EVERY_VERDICTS = 1000


class Commits:
    """Commits for one assignment. It is dead before the assignment is given up: a commit that is
    still retried would go out under the next generation, and move another member's partition back.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        assigned: Collection[Assigned],
        *,
        ahead: int,
        every_seconds: float,
        where: str,
        refused: Callable[[BaseException], None],
    ) -> None:
        self._consumer = consumer
        self._assigned = assigned
        self._ahead = ahead
        self._every = every_seconds
        self._where = where
        self._refused = refused
        self._verdicts = 0
        self._wanted = asyncio.Event()
        self._asked = 0  # rounds asked for
        self._made = 0  # rounds that were committed after they were asked for
        self._round = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self._current: asyncio.Task[None] | None = None
        self._is_over = False

    def start(self, group: str) -> None:
        """From now on regularly."""
        self._task = asyncio.create_task(self._run(), name=f"commits:{group}")

    def verdicts(self, count: int) -> None:
        """So many more."""
        self._verdicts += count
        if self._verdicts >= EVERY_VERDICTS:
            self._wanted.set()

    async def flush(self) -> None:
        """Return when what is finished now is with the broker, or the assignment is over."""
        if not self._has_news():
            return
        self._asked += 1
        mine = self._asked
        self._wanted.set()
        while self._made < mine and self._task is not None:
            await self._round.wait()

    async def raise_limits(self) -> None:
        """Commit limits above what has been handed out; raises what the client raises."""
        await self._send(COMMIT_SECONDS)

    async def finish(self, seconds: float) -> None:
        """End the task, then commit for the last time; never raises."""
        await self.abandon()
        self._is_over = False
        try:
            await self._send(seconds, last=True)
        except CLIENT_ERRORS as error:  # a lost commit is a redelivery, nothing else
            log.info("the last commit of an assignment failed: %s", described(error))
            self._refused(error)

    async def abandon(self) -> None:
        """End, with nothing of it under way any more."""
        self._is_over = True
        task, self._task = self._task, None
        await end([each for each in (task, self._current) if each is not None])
        self._round.set()

    def _has_news(self) -> bool:
        return any(
            self._is_new(each, each.mark(self._ahead), last=False) for each in self._assigned
        )

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            asked = self._asked
            try:
                await self._send(COMMIT_SECONDS)
            except (CommitFailedError, IllegalStateError) as error:
                self._refused(error)  # a rebalance: what follows is in its hands
            except CLIENT_ERRORS as error:
                log.warning("%s", transport_error(error, "commit", self._where).what)
                continue
            self._made = asked
            self._round.set()
            self._round.clear()

    async def _send(self, seconds: float, *, last: bool = False) -> None:
        async with self._sending:
            self._verdicts = 0
            marks = {}
            for each in self._assigned:
                await self._pass_over(each)
                mark = each.mark(self._ahead, last=last)
                if self._is_new(each, mark, last=last):
                    marks[each] = mark
            if not marks:
                return
            offsets = {each.part: (mark.offset, mark.metadata()) for each, mark in marks.items()}
            await self._commit(seconds, offsets)
            for each, mark in marks.items():
                each.sent = mark
                each.limit = max(each.limit, mark.limit)

    async def _commit(
        self, seconds: float, offsets: Mapping[TopicPartition, tuple[int, str]]
    ) -> None:
        """In a task of its own, so that it can be ended whoever waits for it."""
        if self._is_over:
            raise CommitFailedError("the assignment is over")
        self._current = asyncio.create_task(
            self._consumer.commit(dict(offsets)), name="commits:one"
        )
        self._current.add_done_callback(_asked_for)
        try:
            done, _ = await asyncio.wait([self._current], timeout=seconds)
        finally:
            self._current.cancel()
        if not done:
            raise TimeoutError
        if self._current.cancelled():
            raise CommitFailedError("the assignment is over")
        self._current.result()

    def _is_new(self, each: Assigned, mark: Mark, *, last: bool) -> bool:
        """Limits alone are raised when half of the room is used up."""
        sent = each.sent
        if sent is None or last:
            return sent != mark
        return (
            sent.offset != mark.offset
            or sent.done != mark.done
            or sent.limit - each.seen < self._ahead // 2
        )

    async def _pass_over(self, each: Assigned) -> None:
        """With nothing open the position counts, so that lag reads zero behind markers."""
        if not each.watermark.is_open and each.sent is not None:
            try:
                position = await within(1.0, self._consumer.position(each.part))
            except CLIENT_ERRORS:
                return
            each.pass_over(position)


def _asked_for(task: asyncio.Task[None]) -> None:
    """Cancelled, the client may answer with another error yet, and its loop would complain."""
    if not task.cancelled():
        task.exception()
