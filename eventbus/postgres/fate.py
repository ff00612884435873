"""What became of a transaction whose COMMIT got no answer (X2, storage.md 1.3)."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from eventbus.errors import StorageError

if TYPE_CHECKING:
    from eventbus.postgres.pools import Pools

ASKING_SECONDS = 10.0

_STATUS = """
SELECT pg_xact_status($1::text::xid8) AS status, system_identifier::text AS system,
       substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS timeline
  FROM pg_control_system()"""


@dataclass(frozen=True, slots=True)
class Fate:
    """A transaction id, valid on the server that gave it."""

    xid: int

    async def ask(self, pools: "Pools") -> Literal["committed", "rolled_back", "unknown"]:
        """Ask a new connection, for at most 10 s while the transaction is still in progress."""
        try:
            async with asyncio.timeout(ASKING_SECONDS):
                while (answer := await self._once(pools)) == "in progress":
                    await asyncio.sleep(0.2)
        except (TimeoutError, StorageError):
            return "unknown"
        return {"committed": "committed", "aborted": "rolled_back"}.get(answer, "unknown")  # type: ignore[return-value]  # the three words

    async def _once(self, pools: "Pools") -> str:
        async with pools.connection() as connection:
            row = await connection.fetchrow(_STATUS, str(self.xid))
            if pools.server != (row["system"], row["timeline"]):
                return "unknown"  # another server: the number may belong to somebody else
            return str(row["status"] or "unknown")


SERVER = """
SELECT system_identifier::text AS system,
       substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS timeline
  FROM pg_control_system()"""
