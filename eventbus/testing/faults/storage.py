"""A storage whose calls meet the faults of a plan."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Literal, Self, cast

from eventbus.errors import CommitUnknownError, Finding
from eventbus.inspection import Inspected, Inspection
from eventbus.storage import Storage, StorageCapabilities, Transaction, Work
from eventbus.storage.events import Append, Appended, ReadBound
from eventbus.testing.faults.calls import plainly, timed_out
from eventbus.testing.faults.plan import Fault, FaultPlan
from eventbus.testing.faults.transaction import FaultyTransaction


class FaultyStorage(AbstractAsyncContextManager["FaultyStorage"]):
    """A storage whose calls, those of its sub-stores too, meet the faults of a plan."""

    def __init__(self, inner: Storage, plan: FaultPlan) -> None:
        self.inner = inner
        self._plan = plan

    @property
    def capabilities(self) -> StorageCapabilities:
        """Those of the inner one."""
        return self.inner.capabilities

    @property
    def trouble(self) -> str | None:
        """That of the inner one."""
        return self.inner.trouble

    @property
    def inspection(self) -> Inspection:
        """That of the inner one: operators meet no faults."""
        return cast("Inspected", self.inner).inspection

    async def __aenter__(self) -> Self:
        await self._plan.through("enter", plainly(self.inner.__aenter__), timed_out)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._plan.frozen:
            await self.inner.__aexit__(kind, error, trace)

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction, through the plan."""
        return _FaultyEntry(self.inner.transaction(), self._plan)

    def enlist(self, connection: object) -> AbstractAsyncContextManager[Transaction]:
        """Join the caller's transaction, through the plan."""
        return _FaultyEntry(self.inner.enlist(connection), self._plan)

    async def append(self, append: Append) -> Appended:
        """Through the plan; `Fault(done=True)`: it stands there, and nobody was told."""
        ids = [message.id for message in append.messages]
        act = plainly(partial(self.inner.append, append))
        return await self._plan.through("append", act, partial(_commit_unknown, ids))

    async def load_events(self, appends: Sequence[Append], *, skip: bool = False) -> int:
        """Through the plan."""
        act = plainly(partial(self.inner.load_events, appends, skip=skip))
        return await self._plan.through("load_events", act, timed_out)

    async def read_bound(self) -> ReadBound:
        """Through the plan."""
        return await self._plan.through("read_bound", plainly(self.inner.read_bound), timed_out)

    async def wait(self, work: Work, *, at_most: timedelta) -> None:
        """Forward."""
        act = plainly(partial(self.inner.wait, work, at_most=at_most))
        await self._plan.through("wait", act, timed_out)

    async def upgrade(self) -> None:
        """Forward."""
        await self._plan.through("upgrade", plainly(self.inner.upgrade), timed_out)

    async def prune(self, *, inbox: timedelta, limit: int) -> int:
        """Forward."""
        act = plainly(partial(self.inner.prune, inbox=inbox, limit=limit))
        return await self._plan.through("prune", act, timed_out)

    async def examine(self) -> Sequence[Finding]:
        """What the inner one says."""
        return await self._plan.through("examine", plainly(self.inner.examine), timed_out)


class _FaultyEntry(AbstractAsyncContextManager[Transaction]):
    """Around a transaction: a fault before the commit rolls the inner one back."""

    def __init__(self, entry: AbstractAsyncContextManager[Transaction], plan: FaultPlan) -> None:
        self._entry = entry
        self._plan = plan

    async def __aenter__(self) -> Transaction:
        self._tx = FaultyTransaction(await self._entry.__aenter__(), self._plan)
        return cast("Transaction", self._tx)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if error is not None:
            return await self._entry.__aexit__(kind, error, trace)
        self._left = False
        calls = [f"commit+{call}" for call in self._tx.calls]
        try:
            self._tx.refuse_if_doomed()
            unknown = partial(_commit_unknown, self._tx.message_ids)
            await self._plan.through("commit", self._commit, unknown, *calls)
        except BaseException as failure:
            if not self._left:
                await self._entry.__aexit__(type(failure), failure, failure.__traceback__)
            raise
        return None

    async def _commit(self, _: Fault | None) -> None:
        self._left = True
        await self._entry.__aexit__(None, None, None)


def _commit_unknown(message_ids: Sequence[str], done: bool) -> Exception:
    async def ask() -> Literal["committed", "rolled_back"]:
        return "committed" if done else "rolled_back"

    return CommitUnknownError(
        "EB5101",
        "the commit is unknown",
        ids=tuple(message_ids),
        where="commit",
        why="a fault of the test's plan: the reply was lost",
        next="await error.resolve() before anything is repeated",
        ask=ask,
    )
