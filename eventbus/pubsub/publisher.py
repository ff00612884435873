"""bus.publish and bus.send: calls that wait share one commit; or the broker's confirm."""

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import timedelta

from eventbus.errors import EventBusError, PublishUnknownError
from eventbus.instrumentation import Instrumentation, count_unknown, handing_over
from eventbus.message import Message
from eventbus.storage import Storage
from eventbus.transport import Transport

MOST_ROWS = 500


@dataclass(slots=True, eq=False)
class _Waiting:
    message: Message
    delay: timedelta | None
    done: "asyncio.Future[None]"


class OutboxPublisher:
    """A transaction with one row for each call; those that wait while one is in flight go together.

    In call order, one commit, no timer: so a lone call pays nothing for the others.
    """

    def __init__(self, storage: Storage, instrumentation: Instrumentation | None = None) -> None:
        self._storage = storage
        self._instrumentation = instrumentation
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no call is on its way."""
        return self._task is None

    async def publish(self, message: Message, delay: timedelta | None) -> None:
        """Return after the commit of the outbox row.

        Cancelled while waiting, the row may be committed nevertheless.

        Raises:
            StorageError: the row is not kept.
            CommitUnknownError: perhaps it is; `resolve()` asks.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(message, delay, done))
        self._start()
        await done

    async def drain(self) -> None:
        """Return when every accepted call has its answer."""
        while self._task is not None:
            await asyncio.wait([self._task])
            await asyncio.sleep(0)  # its callback runs behind us

    def _start(self) -> None:
        if self._task is None and self._waiting:
            self._task = asyncio.create_task(self._work(), name="publish:outbox")
            self._task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Whatever ended it, even before its first step: nobody waits for ever."""
        self._task = None
        if task.cancelled() or task.exception() is not None:
            while self._waiting:
                _answer(self._waiting.popleft(), asyncio.CancelledError())
        self._start()

    async def _work(self) -> None:
        while self._waiting:
            most = min(MOST_ROWS, len(self._waiting))
            await self._commit([self._waiting.popleft() for _ in range(most)])

    async def _commit(self, batch: list[_Waiting]) -> None:
        try:
            async with self._storage.transaction() as tx:
                for delay in dict.fromkeys(one.delay for one in batch):
                    rows = [one.message for one in batch if one.delay == delay]
                    await tx.outbox.add(rows, delay=delay)
        except EventBusError as error:
            if len(batch) == 1:
                count_unknown(self._instrumentation, error, "outbox", "raised")
                _answer(batch[0], error)
                return
            count_unknown(self._instrumentation, error, "outbox", "repeated")
            for one in batch:  # only the guilty one pays
                await self._commit([one])
        except BaseException as error:
            for one in batch:
                _answer(one, error)
            raise
        else:
            for one in batch:
                _answer(one, None)


class DirectPublisher:
    """Without a storage: returns once the broker confirmed."""

    def __init__(
        self, transport: Transport, *, scheme: str, instrumentation: Instrumentation | None
    ) -> None:
        self._transport = transport
        self._scheme = scheme
        self._instrumentation = instrumentation

    async def publish(self, message: Message, delay: timedelta | None = None) -> None:
        """Hand a message to the broker; `delay` is None here, the bus has refused others.

        Raises:
            PublishError: what became of it.
        """
        instrumentation = self._instrumentation
        if instrumentation is None:
            await self._transport.publish([message])
            return
        outcome = "failed"
        try:
            with handing_over(instrumentation, [message], transport=self._scheme):
                await self._transport.publish([message])
            outcome = "confirmed"
        except PublishUnknownError:
            instrumentation.count("unknown_outcomes_total", operation="publish", outcome="raised")
            raise
        finally:
            instrumentation.count(
                "published_total",
                transport=self._scheme,
                topic=message.topic,
                event_type=message.type,
                outcome=outcome,
            )


def _answer(waiting: _Waiting, error: BaseException | None) -> None:
    if waiting.done.done():  # its caller was cancelled
        return
    if error is None:
        waiting.done.set_result(None)
    elif isinstance(error, asyncio.CancelledError):
        waiting.done.cancel()
    else:
        waiting.done.set_exception(error)
