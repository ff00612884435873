"""Feeds a group from the log, beside the live one: rows are written, nothing leaves."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches

from eventbus.errors import ConfigurationError, SourcingError
from eventbus.event import Event
from eventbus.handler import UnitOfWork
from eventbus.message import Message
from eventbus.personal import Opening, without
from eventbus.pubsub.attempt import Attempts
from eventbus.pubsub.routes import Route, Routes
from eventbus.pubsub.unit_of_work import HandlerContext, Holding, Publishing, held
from eventbus.pubsub.watchdog import Run
from eventbus.resilience.retry import in_a_line
from eventbus.service import end
from eventbus.storage import Storage, Transaction
from eventbus.storage.events import Appended, Expected, Filter, Position, RecordedMessage

PAGE = 100  # events, and a transaction


Between = tuple[datetime | None, datetime | None]
"""Recorded at the first or later, and at the second or earlier; None: whenever."""

ALWAYS: Between = (None, None)


def is_between(recorded: RecordedMessage, between: Between) -> bool:
    """Whether it was recorded then."""
    since, until = between
    at = recorded.recorded_at
    return (since is None or at >= since) and (until is None or at <= until)


@dataclass(slots=True)
class Replayed:
    """How far a replay came."""

    read_to: Position
    events: int = 0  # that the group's handlers got
    withheld: int = 0  # publishes, sends and appends that were not let out


class ReplayContext(HandlerContext):
    """`ctx.replaying` is True: what would leave is checked and counted, and stays here."""

    __slots__ = ("withheld",)

    def __init__(
        self, publishing: Publishing, tx: Transaction | None, message: Message, *, group: str
    ) -> None:
        super().__init__(publishing, tx, message, group=group)
        self.replaying = True
        self.withheld: int = 0

    async def append(
        self, stream: str, events: Sequence[Event], *, expected: Expected, publish: bool = True
    ) -> Appended:
        """Decided as in earnest, and undone."""
        try:
            async with self.storage.savepoint():
                appended = await super().append(stream, events, expected=expected, publish=False)
                raise _Undone  # noqa: TRY301 - the way out of a savepoint
        except _Undone:
            self.withheld += len(events)
        return appended

    def afterwards(self, name: str, work: Callable[[UnitOfWork], object]) -> None:
        """Not in a replay."""

    async def _add(self, message: Message, delay: timedelta | None) -> str:
        self._refuse_if_over()
        self.withheld += 1
        return message.id


class _Undone(Exception):  # noqa: N818 - ends a savepoint, and is seen by nobody
    pass


class Replay:
    """The events of the log that a group wants, in their order, one after another.

    Neither the inbox nor the group's place at the broker is read or moved: an event that was
    handled is handled again. Groups whose handlers must not write a row twice look at
    `ctx.replaying`, or their rows are deleted first.
    """

    def __init__(
        self, routes: Routes, attempts: Attempts, storage: Storage, publishing: Publishing
    ) -> None:
        self._routes = routes
        self._attempts = attempts
        self._storage = storage
        self._publishing = publishing
        self._only = Filter(types=routes.interest().types if _by_type(routes) else ())

    async def run(
        self,
        after: Position,
        upto: Position,
        tell: Callable[[Replayed], None],
        between: Between = ALWAYS,
    ) -> Replayed:
        """Feed what lies between two positions, and two moments; `tell` hears of each page.

        Raises:
            SourcingError: EB4206, a handler failed or an event cannot be read: what came before it
                is kept, and its position is told.
        """
        done = Replayed(after)
        async with self._watched() as run:
            while done.read_to < upto:
                async with self._storage.transaction() as tx:
                    page = await tx.events.read_all(
                        after=done.read_to, limit=PAGE, upto=upto, only=self._only
                    )
                if page.read_to <= done.read_to:
                    break
                events = [one for one in page.events if is_between(one, between)]
                failed = await self._each(events, done, run)
                if failed is not None:
                    raise failed
                done.read_to = page.read_to
                tell(done)
        return done

    async def _each(
        self, events: Sequence[RecordedMessage], done: Replayed, run: Run
    ) -> SourcingError | None:
        """One transaction, as of a batch; a savepoint each, and the first failure ends it."""
        async with AsyncExitStack() as stack:
            tx = None
            if self._routes.group.transactional:
                tx = await stack.enter_async_context(run.within(self._storage))
            for recorded in events:
                message, opening = recorded.message, None
                route = self._routes.of(message.type)
                try:
                    if route.handlers:
                        opening = await self._attempts.opening(message, route, tx)
                        await self._one(message, route, opening, tx, done, run)
                except Exception as error:  # the border where the user's code may fail in any way
                    hidden = () if opening is None else opening.texts
                    failed = _stopped(self._routes.group.name, recorded, error, hidden)
                    failed.__cause__ = error
                    return failed
                done.read_to = recorded.position
        return None

    async def _one(
        self,
        message: Message,
        route: Route,
        opening: Opening | None,
        tx: Transaction | None,
        done: Replayed,
        run: Run,
    ) -> None:
        what = self._attempts.decode(message, route, opening)
        context = ReplayContext(self._publishing, tx, message, group=self._routes.group.name)
        try:
            if tx is None:
                await self._attempts.handle(route, what, message, context, run)
            else:
                async with tx.savepoint():
                    await self._attempts.handle(route, what, message, context, run)
        finally:
            context.open = False
        done.events += 1
        done.withheld += context.withheld

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[Run]:
        """Handlers have their timeout, and may not publish past their context."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in one
        watchdog = self._attempts.watchdog
        watching = asyncio.create_task(watchdog.run(asyncio.Event()), name="replay:watchdog")
        run, holding = watchdog.watch(task), Holding()
        token = held.set(holding)
        try:
            yield run
        finally:
            holding.open = False
            held.reset(token)
            watchdog.forget(run)
            await end([watching])
            self._attempts.close()


def no_group(group: str, groups: Collection[str]) -> ConfigurationError:
    """EB1006: with what was probably meant."""
    close = get_close_matches(group, groups, n=3, cutoff=0.6)
    return ConfigurationError(
        "EB1006",
        f"the app has no group {group!r}",
        where=f"replay of group {group}",
        why=f"its groups are: {', '.join(groups) or 'none'}",
        next=" | ".join(f"--group {one}" for one in close) or "eventbus describe",
    )


def _by_type(routes: Routes) -> bool:
    """Whether the database can pick what the group wants: a wildcard it cannot."""
    return not any(each.endswith(".*") for each in routes.interest().types)


def _stopped(
    group: str, recorded: RecordedMessage, error: Exception, hidden: Sequence[str]
) -> SourcingError:
    return SourcingError(
        "EB4206",
        f"the replay of group {group!r} stopped at position {recorded.position}:"
        f" {type(error).__name__}",
        where=f"{recorded.stream}@{recorded.version} {recorded.type}, id {recorded.message.id}",
        why=in_a_line(without(str(error), hidden)) or "the handler says no more",
        next=f"what came before it is kept: mend it, and go on with --from {recorded.position}",
    )
