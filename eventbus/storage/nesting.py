"""Which transactions a task holds: a second one of the same storage is refused (X6)."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from eventbus.errors import StorageError


class Session(Protocol):
    """What tells whether its transaction is still open."""

    @property
    def open(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Held:
    """A transaction that a task has entered, and the one around it."""

    storage: object
    session: Session
    outer: "Held | None"


_innermost: ContextVar[Held | None] = ContextVar("eventbus_transaction", default=None)


def enter(storage: object, session: Session) -> Held:
    """This task holds a transaction from now on.

    Raises:
        StorageError: EB5002, it holds one of this storage already.
    """
    refuse_nested(storage)
    held = Held(storage, session, _open(_innermost.get()))
    _innermost.set(held)
    return held


def leave(held: Held) -> None:
    """What is around it is the innermost again."""
    _innermost.set(held.outer)


def refuse_nested(storage: object) -> None:
    """Refuse what would wait for a transaction that this task holds.

    Raises:
        StorageError: EB5002.
    """
    held = _open(_innermost.get())
    while held is not None:
        if held.storage is storage:
            raise _nested()
        held = _open(held.outer)


def _open(held: Held | None) -> Held | None:
    # a task keeps the context of the one that started it, whose transaction may be over
    while held is not None and not held.session.open:
        held = held.outer
    return held


def _nested() -> StorageError:
    return StorageError(
        "EB5002",
        "a transaction inside a transaction",
        where="storage.transaction()",
        why="this task, or the one that started it, has one open: it would wait for itself, or"
        " hold two connections, which is how pools run dry",
        next="use the transaction you hold; tx.savepoint() undoes a part of it",
    )
