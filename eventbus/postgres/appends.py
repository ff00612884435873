"""One-shot appends: one statement, which is its own transaction, for all that wait."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

from eventbus.errors import CommitUnknownError, ConcurrencyError, StorageError, StreamClosedError
from eventbus.postgres.completion import roll_back
from eventbus.postgres.events import appended_of, category_of, number_of
from eventbus.postgres.recorded import event_columns, event_values
from eventbus.postgres.rows import outgoing_columns, outgoing_values
from eventbus.postgres.session import Session
from eventbus.postgres.transaction import PostgresTransaction
from eventbus.storage import Work
from eventbus.storage.events import Append, EventStore
from eventbus.storage.merging import Verdict
from eventbus.storage.verdicts import places


def _call(function: str, arguments: int) -> str:
    given = ", ".join(f"${number}" for number in range(1, arguments + 1))
    return f"SELECT * FROM {{schema}}.{function}({given})"


_EVENT = _call("append_event", 20)
_NOTHING_LEAVES = (None,) * 9
_ONE = _call("append", 11)
_MANY = _call("append_many", 24)
_DECIDE = "SELECT status FROM {schema}.decide_append($1, $2, $3, $4, $5, 0)"
_ANSWERS: dict[str, Literal["committed", "unknown"]] = {
    "repeated": "committed",
    "closed": "unknown",  # whatever stands there
}


class Appends:
    """What `Storage.append` sends.

    Args:
        new_session: a session on a connection of the pool.
        transaction: for what a statement of its own cannot do.
        pooled: behind a pooler a statement outside a transaction has no time-outs of ours.
        hint: of what was committed.
    """

    def __init__(
        self,
        new_session: Callable[[], Session],
        transaction: Callable[[], AbstractAsyncContextManager[PostgresTransaction]],
        *,
        pooled: bool,
        hint: Callable[[Work], None],
    ) -> None:
        self._new_session = new_session
        self._transaction = transaction
        self._pooled = pooled
        self._hint = hint

    async def write(self, appends: Sequence[Append]) -> Sequence[Verdict]:
        """A verdict for each, in one commit.

        If the reply is lost, one append goes again, with the same ids, in a transaction whose fate
        can be asked; several raise.

        Raises:
            StorageError: none was written, or it is not known of several.
            CommitUnknownError: it is not known of one.
        """
        if self._pooled:
            return await self._in_transaction(appends)
        session = self._new_session()
        try:
            rows = await self._statement(session, appends)
        except StorageError as error:
            if len(appends) > 1:
                raise
            return await self._again(appends, error, lost=not session.whole)
        finally:
            await session.end(roll_back=False)
        verdicts = [_verdict(*pair) for pair in zip(appends, rows, strict=True)]
        self._give_hints(appends, rows)
        return verdicts

    async def _statement(self, session: Session, appends: Sequence[Append]) -> list[Any]:
        statement, arguments = _statement(appends)
        return await session.look(
            statement.format(schema=session.schema), *arguments, where="append", role="append"
        )

    def _give_hints(self, appends: Sequence[Append], rows: Sequence[Any]) -> None:
        won = [append for append, row in zip(appends, rows, strict=True) if row["status"] == "ok"]
        if won:
            self._hint("events")
        if any(append.publish for append in won):
            self._hint("outbox")

    async def _again(
        self, appends: Sequence[Append], first: StorageError, *, lost: bool
    ) -> Sequence[Verdict]:
        try:
            return await self._in_transaction(appends)
        except CommitUnknownError:
            raise
        except StorageError as error:
            if lost:
                raise self._unknown(appends[0], first) from error
            raise

    async def _in_transaction(self, appends: Sequence[Append]) -> Sequence[Verdict]:
        verdicts: dict[int, Verdict] = {}
        in_order = sorted(enumerate(appends), key=lambda each: _head(each[1])[:2])
        async with self._transaction() as tx:
            for number, append in in_order:
                verdicts[number] = await _judged(tx.events, append)
        return [verdicts[number] for number in range(len(appends))]

    def _unknown(self, append: Append, first: StorageError) -> CommitUnknownError:
        async def ask() -> Literal["committed", "rolled_back", "unknown"]:
            return await self._ask(append)

        return CommitUnknownError(
            "EB5101",
            "it is unknown whether the events are recorded",
            ids=tuple(message.id for message in append.messages),
            where=f"append to {append.stream!r}, {first.where}",
            why=f"no answer, and no connection to ask: {first.why}",
            next="append them again under the same ids, or await error.resolve()",
            ask=ask,
        )

    async def _ask(self, append: Append) -> Literal["committed", "rolled_back", "unknown"]:
        """Decide once more, and roll back: the head waits for whoever still writes."""
        session = self._new_session()
        ids = [message.identity for message in append.messages]
        try:
            rows = await session.fetch(
                _DECIDE.format(schema=session.schema), *_head(append), ids, where="append"
            )
        finally:
            await roll_back(session)
        return _ANSWERS.get(rows[0]["status"], "rolled_back")


async def _judged(events: EventStore, append: Append) -> Verdict:
    try:
        return await events.append(append)
    except (ConcurrencyError, StreamClosedError) as error:
        return error


def _verdict(append: Append, row: Any) -> Verdict:
    try:
        return appended_of(append, row)
    except (ConcurrencyError, StreamClosedError) as error:
        return error


def _head(append: Append) -> tuple[Any, ...]:
    return append.messages[0].tenant, append.stream, category_of(append), number_of(append)


def _statement(appends: Sequence[Append]) -> tuple[str, tuple[Any, ...]]:
    """The one that does least for them."""
    if len(appends) == 1:
        (append,) = appends
        if len(append.messages) == 1 and len(append.publish) <= 1:
            return _EVENT, _event(append)
        if not append.publish:
            return _ONE, _one(append)
    return _MANY, _many(appends)


def _event(append: Append) -> tuple[Any, ...]:
    event = event_values(append.messages[0])
    for place, message in places(append):
        return (*_head(append), *event, place, *outgoing_values(message))
    return (*_head(append), *event, *_NOTHING_LEAVES)


def _one(append: Append) -> tuple[Any, ...]:
    return (*_head(append), *event_columns(append.messages))


def _many(appends: Sequence[Append]) -> tuple[Any, ...]:
    tenants, names, categories, expected = zip(*map(_head, appends), strict=True)
    outgoing = [
        (request, *told) for request, append in enumerate(appends, 1) for told in places(append)
    ]
    return (
        tenants,
        names,
        categories,
        expected,
        [len(append.messages) for append in appends],
        (),  # whose each event is, and its number there: the counts say it
        (),
        *event_columns([message for append in appends for message in append.messages]),
        [request for request, _, _ in outgoing],
        [place for _, place, _ in outgoing],
        *outgoing_columns([message for _, _, message in outgoing]),
    )
