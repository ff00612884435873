"""What became of a transaction whose COMMIT got no answer (X2, storage.md 1.3)."""

import asyncio
from collections.abc import Iterable
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
# Of an id that it has not given yet, as after a crash that took it, `pg_xact_status` is an error.
_STATUS = f"""
SELECT s.*, pg_last_wal_replay_lsn()::text AS recovered,
       CASE WHEN $1::text::xid8 < pg_snapshot_xmax(pg_current_snapshot())
            THEN pg_xact_status($1::text::xid8) ELSE 'in progress' END AS status
  FROM ({SERVER}) s"""  # noqa: S608 - a constant
# What a statement tells of its transaction, read after it wrote.
WITNESS = """pg_current_xact_id_if_assigned()::text AS xid,
       pg_current_wal_insert_lsn()::text AS written, pg_last_wal_replay_lsn()::text AS recovered"""

Answer = Literal["committed", "rolled_back", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """A transaction id, valid on the server that gave it, until a recovery may give it again.

    After a crash ids are given again of which no WAL was flushed: `pg_xact_status` then speaks of
    somebody else (measured on PostgreSQL 15: 1 of 30 unknown commits of a run with 28 crashes).
    """

    xid: int
    written: str | None = None  # WAL position after a row of ours was written; None: not known
    recovered: str | None = None  # where the last crash recovery before it ended

    def speaks_of_us(self, recovered: str | None, seen: Iterable[str] = ()) -> bool | None:
        """Whether the id is still ours, now that recovery ended at `recovered`; None: perhaps.

        False: our rows were not recovered. What counts is the first recovery after them: later
        ones end beyond rows that were written instead of ours.

        Args:
            recovered: where the last one ended.
            seen: where those ended that this process has seen.
        """
        before = _position(self.recovered or "0/0")
        ends = [_position(one) for one in (*seen, recovered) if one is not None]
        later = [end for end in ends if end > before]
        if not later:
            return True  # no crash since: a clean restart loses nothing
        return None if self.written is None else min(later) >= _position(self.written)

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
        ours = self.speaks_of_us(row["recovered"], pools.recoveries)
        if not ours:
            return "unknown" if ours is None else "rolled_back"
        match row["status"]:
            case "committed":
                return "committed"
            case "aborted":
                return "rolled_back"
            case "in progress":
                return await asyncio.sleep(AGAIN_SECONDS, None)
            case _:
                return "unknown"


def _position(lsn: str) -> int:
    high, _, low = lsn.partition("/")
    return int(high, 16) << 32 | int(low, 16)
