"""Indexes of a shadow: those of the live table, which its users may have added."""

import re

from eventbus.postgres.read_models import qualified, quoted
from eventbus.postgres.session import Session
from eventbus.postgres.unhurried import execute_unhurried
from eventbus.storage.projections import Table, live_of

_INDEXES = """
SELECT i.relname AS name, pg_get_indexdef(x.indexrelid) AS sql
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
 WHERE x.indrelid = to_regclass($1) AND NOT x.indisprimary ORDER BY 1"""
_INDEX = re.compile(r"(?is)^(CREATE (?:UNIQUE )?INDEX)\s+.*?\s+ON\s+(?:ONLY\s+)?.*?\s+(USING\s)")
_IS_THERE = "SELECT to_regclass($1) IS NOT NULL AS there"
_LONGEST = 62  # letters of a name, and one for the length


async def give_indexes(session: Session, table: Table) -> None:
    """Under names of the shadow; one that is there already is left."""
    schema, where = await session.application_schema(), "projections.index"
    live = live_of(table.name)
    suffix = table.name.removeprefix(live)
    place = qualified(schema, table.name)
    await session.execute("SET LOCAL maintenance_work_mem = '256MB'", where=where)
    for row in await session.fetch(_INDEXES, qualified(schema, live), where=where):
        name = live_of(row["name"])[: _LONGEST - len(suffix)] + suffix
        there = await session.fetch(_IS_THERE, qualified(schema, name), where=where)
        if not there[0]["there"]:
            head = rf"\1 {quoted(name)} ON {place} \2"
            await execute_unhurried(session, _INDEX.sub(head, row["sql"], count=1), where=where)
    await execute_unhurried(session, f"ANALYZE {place}", where=where)
