"""A transaction whose calls meet the faults of a plan, and its savepoints."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from eventbus.errors import ConcurrencyError, StorageError, StreamClosedError
from eventbus.storage import Transaction
from eventbus.storage.leases import Lease
from eventbus.testing.faults.calls import plainly, timed_out
from eventbus.testing.faults.plan import Fault, FaultPlan, LoseLease

T = TypeVar("T")
_VERDICTS = (ConcurrencyError, StreamClosedError)  # nothing was written, the transaction goes on


class FaultyTransaction:
    """As with a real database, a failed call dooms what follows, to the end of its savepoint."""

    def __init__(self, inner: Transaction, plan: FaultPlan) -> None:
        self._inner = inner
        self._plan = plan
        self.calls: dict[str, None] = {}  # what was called, in this order
        self.message_ids: list[str] = []  # of what it publishes
        self.doom: BaseException | None = None
        self._verdict: StorageError | None = None  # of the storage itself: it dooms nothing

    def __getattr__(self, name: str) -> "_SubStore":
        """A sub-store: `sql`, `events`, `outbox`, …; all are met in the same way."""
        return _SubStore(name, getattr(self._inner, name), self)

    def resource(self, kind: type[T]) -> T:
        """Forwarded: what the author does with it is not ours to break."""
        return self._inner.resource(kind)

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """With the faults of the plan when it is left."""
        return _FaultySavepoint(self, self._inner.savepoint(), self._plan)

    def abandon(self) -> None:
        """Forwarded: it returns at once, and never fails."""
        self._inner.abandon()

    async def call(
        self, name: str, method: Callable[..., Awaitable[T]], args: Any, keywords: Any
    ) -> T:
        """One call of a sub-store."""

        async def act(fault: Fault | None) -> T:
            if isinstance(fault, LoseLease):
                await self._steal([*args, *keywords.values()])
            try:
                return await method(*args, **keywords)
            except _VERDICTS as error:
                self._verdict = error
                raise

        self.refuse_if_doomed()
        self.calls[name] = None
        if name == "outbox.add":
            self.message_ids += [message.id for message in args[0]]
            if any(message.headers.get("sagaphase") == "undo" for message in args[0]):
                self.calls["undo"] = None  # commands that take back
        elif name == "events.append":
            self.message_ids += [message.id for message in args[0].messages]
        try:
            result = await self._plan.through(name, act, timed_out)
        except StorageError as error:
            if error is not self._verdict:
                self.doom = error
            raise
        if name == "sagas.claim_calls" and result:
            self.calls["claimed"] = None  # not the look that found nothing
        return result

    def refuse_if_doomed(self) -> None:
        """Raise EB5004 if an earlier call failed."""
        if self.doom is not None:
            raise _doomed(self.doom)

    async def _steal(self, args: Sequence[Any]) -> None:
        """A rival draws a higher epoch of every lease among the arguments, and lets go."""
        leases = [
            each for arg in args for each in (arg if isinstance(arg, list | tuple) else [arg])
        ]
        mine = [lease for lease in leases if isinstance(lease, Lease)]
        await self._inner.leases.release(mine)
        rivals = await self._inner.leases.acquire(
            [lease.name for lease in mine], owner="rival", ttl=timedelta(seconds=1), limit=len(mine)
        )
        await self._inner.leases.release(rivals)


class _SubStore:
    """Every method of a sub-store is a coroutine function: one wrapper serves them all."""

    def __init__(self, name: str, inner: object, tx: FaultyTransaction) -> None:
        self._name = name
        self._inner = inner
        self._tx = tx

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        inner = getattr(self._inner, method)
        name = f"{self._name}.{method}"

        async def call(*args: Any, **keywords: Any) -> Any:
            return await self._tx.call(name, inner, args, keywords)

        return call


class _FaultySavepoint(AbstractAsyncContextManager[None]):
    def __init__(
        self, tx: FaultyTransaction, block: AbstractAsyncContextManager[None], plan: FaultPlan
    ) -> None:
        self._tx = tx
        self._block = block
        self._plan = plan

    async def __aenter__(self) -> None:
        self._tx.refuse_if_doomed()
        await self._block.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        doom, self._tx.doom = self._tx.doom, None
        if error is None and doom is not None:
            kind, error = StorageError, _doomed(doom)
            await self._block.__aexit__(kind, error, None)
            raise error
        if error is not None:
            return await self._block.__aexit__(kind, error, trace)
        leave = plainly(partial(self._block.__aexit__, None, None, None))
        return await self._plan.through("savepoint", leave, timed_out)


def _doomed(first: BaseException) -> StorageError:
    error = StorageError(
        "EB5004",
        "the transaction is doomed: an earlier statement in it failed",
        where="a statement after the failed one",
        why=f"first was: {first!s:.200}",
        next="let the first error leave the block, or wrap what may fail in tx.savepoint()",
    )
    error.__cause__ = first
    return error
