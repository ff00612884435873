"""Whether the file system has room for many rows, asked before they are written."""

import shutil
import sqlite3
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from eventbus.errors import StorageError
from eventbus.sqlite.rows import Row

SAMPLE = 1000  # rows that are measured
BYTES_A_VALUE = 9  # of a number, at most
TIMES = 2.5  # in the log of the transaction, in the table, and half of it for keys and indexes


def refuse_without_room(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Raise EB5006 if these rows would fill the disk; a database in memory is not asked.

    A disk that is full stops everybody who writes to it, this process alone is stopped here.
    """
    ((_, _, file),) = connection.execute("PRAGMA database_list").fetchall()[:1]
    if not file:
        return
    needed, free = bytes_of(rows), shutil.disk_usage(Path(file).parent).free
    if needed > free:
        raise StorageError(
            "EB5006",
            "the disk has no room for these rows",
            where="projections.load",
            why=f"{len(rows):,} rows take {needed:,} bytes, and {free:,} are free",
            next="free space; nothing was written",
        )


def bytes_of(rows: Sequence[Row]) -> int:
    """What they take on disk while they are written, by the first of them."""
    sample = list(islice(rows, SAMPLE))
    measured = sum(
        len(value) if isinstance(value, str | bytes) else BYTES_A_VALUE
        for row in sample
        for value in row
    )
    return int(TIMES * measured * len(rows) / len(sample)) if sample else 0
