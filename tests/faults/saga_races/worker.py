"""What one process has of sagas: its connections, its engines, and a dispatcher in miniature."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from random import Random
from typing import Any

from eventbus import EventBus
from eventbus.codec import Encoder
from eventbus.errors import StorageError
from eventbus.event import TypedMessage
from eventbus.instrumentation import NoInstrumentation
from eventbus.message import NO_HEADERS, Message
from eventbus.postgres import PostgresStorage
from eventbus.saga.engine import Engine
from eventbus.testing.conformance.samples import unique
from tests.conformance.postgres import entered

DEADLOCK = "EB5011"
LOST = 0.03  # of the transactions are rolled back when all is written
_encoder = Encoder("/races", max_body=1 << 20)


def made(what: TypedMessage, **headers: str) -> Message:
    """On the wire; sagas and participants add headers that authors may not."""
    message = _encoder.typed(what, NO_HEADERS, None)
    return replace(message, headers={**message.headers, **headers})


class LostTransactionError(Exception):
    """A rollback from outside."""


class Counted(NoInstrumentation):
    """What the workers of a race counted."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def count(self, name: str, amount: int = 1, /, **labels: str) -> None:
        """Without its labels."""
        self.counts[name] = self.counts.get(name, 0) + amount


class Worker:
    """Takes messages for a saga as a lane of a group does: new ones, in one transaction."""

    def __init__(
        self, storage: PostgresStorage, saga: type[Any], seed: int, counted: Counted
    ) -> None:
        bus = EventBus("memory://", storage=storage, handlers=[saga], instrumentation=counted)
        self.engine: Engine
        (self.engine,) = bus._wiring.engines.values()  # without the loops of a bus that runs
        self.storage = storage
        self.seed = seed
        self.dice = Random(seed)

    async def rows(self, query: str, *values: object) -> Sequence[Any]:
        """Of a query about `{schema}`."""
        async with self.storage.transaction() as tx:
            return await tx.sql.fetch(query.format(schema=self.storage.config.schema), *values)

    async def take(self, messages: Sequence[Message]) -> None:
        """Until they are handled: a batch that loses runs again, message by message."""
        try:
            await self._together(messages)
        except LostTransactionError:
            await self.take(messages)
        except StorageError as error:
            if error.code != DEADLOCK or len(messages) == 1:
                raise
            for each in messages:
                await self.take([each])

    async def _together(self, messages: Sequence[Message]) -> None:
        group = self.engine.family.name
        async with self.storage.transaction() as tx:
            keys = [message.key or "" for message in messages]
            received = await tx.inbox.receive(messages, keys=keys, group=group)
            new = [each for each in messages if each.identity in received.new]
            failures, _ = await self.engine.handle(new, tx) if new else ((), ())
            assert not any(failures), failures
            if self.dice.random() < LOST:
                raise LostTransactionError


@asynccontextmanager
async def workers(
    url: str, saga: type[Any], amount: int, counted: Counted
) -> AsyncIterator[list[Worker]]:
    """So many processes' worth of them, on a schema of their own."""
    schema = unique("races")
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(entered(url, schema=schema, pool=4))
        others = [
            await stack.enter_async_context(PostgresStorage(first.config))
            for _ in range(amount - 1)
        ]
        yield [
            Worker(storage, saga, seed, counted) for seed, storage in enumerate([first, *others])
        ]
