"""A commit that SQLite could not finish: what became of it (X19)."""

import logging
import sqlite3
from collections.abc import Collection
from typing import Literal

from eventbus.errors import CommitUnknownError
from eventbus.sqlite.failures import SQLITE_FAILURES
from eventbus.sqlite.rows import Row
from eventbus.sqlite.worker import Worker

log: logging.Logger = logging.getLogger("eventbus.sqlite")
Verdict = Literal["committed", "rolled_back", "unknown"]
Witness = tuple[str, Row]
"""A query and its values: it finds a row if the transaction is committed."""


def unknown_commit(
    error: Exception, worker: Worker, *, ids: Collection[str], witness: Witness | None
) -> CommitUnknownError:
    """Open the file again and look, before anybody else writes; only in a call of the worker."""
    verdict: Verdict = "unknown"
    try:
        worker.reopen()
        verdict = _look(worker.connection, witness)
    except SQLITE_FAILURES:
        log.exception("the database cannot be asked what became of a commit")

    async def ask() -> Verdict:
        return verdict

    return CommitUnknownError(
        "EB5101",
        "the commit is unknown: SQLite could not finish it",
        ids=ids,
        where="commit",
        why=str(error),
        next="await error.resolve() before anything is repeated",
        ask=ask,
    )


def _look(connection: sqlite3.Connection, witness: Witness | None) -> Verdict:
    # What the log holds of it may count after the next crash as long as nothing was written over
    # it: so look, then write.
    connection.execute("BEGIN IMMEDIATE")
    verdict: Verdict = "unknown"
    if witness is not None:
        found = connection.execute(*witness).fetchone()
        verdict = "committed" if found else "rolled_back"
    connection.execute("UPDATE eventbus_store_info SET created_at = created_at")
    connection.execute("COMMIT")
    return verdict
