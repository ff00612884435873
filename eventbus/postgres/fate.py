"""What became of a transaction whose COMMIT got no answer (X2, storage.md 1.3)."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from eventbus.errors import StorageError
from eventbus.postgres.pools import Pools

ASKING_SECONDS = 10.0
AGAIN_SECONDS = 0.1

SERVER = """
SELECT system_identifier::text AS system,
       substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS timeline
  FROM pg_control_system()"""
_STATUS = f"SELECT s.*, pg_xact_status($1::text::xid8) AS status FROM ({SERVER}) s"  # noqa: S608 - a constant

Answer = Literal["committed", "rolled_back", "unknown"]


@dataclass(frozen=True, slots=True)
class Fate:
    """A transaction id, valid on the server that gave it."""

    xid: int

    async def ask(self, pools: Pools) -> Answer:
        """Ask, for at most 10 s while it is in progress or the database is away."""
        loop = asyncio.get_running_loop()
        until = loop.time() + ASKING_SECONDS
        answer: Answer | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while answer is None and loop.time() < until:
                    answer = await self._once(pools)
        return answer or "unknown"

    async def _once(self, pools: Pools) -> Answer | None:
        """None: ask again."""
        try:
            async with pools.connecting() as connection:
                row = await connection.fetchrow(_STATUS, str(self.xid))
        except StorageError:
            return await asyncio.sleep(AGAIN_SECONDS, None)
        if pools.server != (row["system"], row["timeline"]):
            return "unknown"  # another server: the number may belong to somebody else
        match row["status"]:
            case "committed":
                return "committed"
            case "aborted":
                return "rolled_back"
            case "in progress":
                return await asyncio.sleep(AGAIN_SECONDS, None)
            case _:
                return "unknown"
