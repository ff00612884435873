"""One-shot appends: one statement, which is its own transaction, for all that wait."""

# ruff: noqa: S608 - statements are built from this room's constants only; values are bound

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

from eventbus.errors import CommitUnknownError, ConcurrencyError, StorageError, StreamClosedError
from eventbus.postgres.completion import roll_back
from eventbus.postgres.events import appended_of, category_of, number_of
from eventbus.postgres.recorded import event_columns
from eventbus.postgres.rows import outgoing_columns
from eventbus.postgres.session import Session
from eventbus.postgres.transaction import PostgresTransaction
from eventbus.storage import Work
from eventbus.storage.events import Append, EventStore
from eventbus.storage.merging import Verdict
from eventbus.storage.verdicts import places

_ONE = f"SELECT * FROM {{schema}}.append({', '.join(f'${n}' for n in range(1, 12))})"
_MANY = f"SELECT * FROM {{schema}}.append_many({', '.join(f'${n}' for n in range(1, 25))})"
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
        if len(appends) == 1 and not appends[0].publish:
            statement, arguments = _ONE, _one(appends[0])
        else:
            statement, arguments = _MANY, _many(appends)
        return await session.look(
            statement.format(schema=session.schema), *arguments, where="append"
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


def _one(append: Append) -> tuple[Any, ...]:
    return (*_head(append), *event_columns(append.messages))


def _many(appends: Sequence[Append]) -> tuple[Any, ...]:
    tenants, names, categories, expected = zip(*map(_head, appends), strict=True)
    numbered = [
        (request, number)
        for request, append in enumerate(appends, 1)
        for number in range(1, len(append.messages) + 1)
    ]
    outgoing = [
        (request, *told) for request, append in enumerate(appends, 1) for told in places(append)
    ]
    return (
        tenants,
        names,
        categories,
        expected,
        [len(append.messages) for append in appends],
        [request for request, _ in numbered],
        [number for _, number in numbered],
        *event_columns([message for append in appends for message in append.messages]),
        [request for request, _, _ in outgoing],
        [place for _, place, _ in outgoing],
        *outgoing_columns([message for _, _, message in outgoing]),
    )
