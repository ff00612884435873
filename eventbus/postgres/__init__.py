"""PostgreSQL: the production store."""

from eventbus.postgres.storage import PostgresStorage

__all__ = ["PostgresStorage"]
