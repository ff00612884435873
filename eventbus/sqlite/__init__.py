"""SQLite, a file or in memory, as a storage: one writer, the same SQL in both."""

from eventbus.sqlite.storage import SqliteStorage, open_storage

__all__ = ["SqliteStorage", "open_storage"]
