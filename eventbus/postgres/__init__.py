"""PostgreSQL: the production store."""

from eventbus.errors import MissingExtraError

try:
    import asyncpg as _driver  # noqa: F401 - asked for here, so that the error names the extra
except ModuleNotFoundError as _error:
    raise MissingExtraError(
        "EB1005",
        "the driver of PostgreSQL is not installed",
        where="storage=postgresql://…",
        why="asyncpg is missing",
        next="pip install 'eventbus[postgres]'",
    ) from _error

from eventbus.postgres.config import PostgresConfig
from eventbus.postgres.storage import PostgresStorage

__all__ = ["PostgresConfig", "PostgresStorage"]
