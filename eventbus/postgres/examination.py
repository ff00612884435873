"""What settings of the server mean for the promises: findings."""

from collections.abc import Mapping, Sequence

from eventbus.errors import Finding, StorageError
from eventbus.postgres.fate import SERVER
from eventbus.postgres.pools import Connection, Pools

_SETTINGS = """
SELECT name, setting FROM pg_settings
 WHERE name IN ('fsync', 'synchronous_commit', 'synchronous_standby_names')"""
_READS_ONLY = """
SELECT pg_is_in_recovery() AS standby,
       current_setting('transaction_read_only')::bool AS by_setting"""


async def require_primary(connection: Connection, where: str) -> tuple[str, str]:
    """Which server this is: system identifier and timeline.

    Raises:
        StorageError: EB5013, it only reads.
    """
    only = await connection.fetchrow(_READS_ONLY)
    if only["standby"]:
        raise StorageError(
            "EB5013",
            "this server is a read-only standby",
            where=where,
            why="inbox, outbox and leases must be written, and never be read late (X17)",
            next="connect to the primary: ?target_session_attrs=primary",
        )
    if only["by_setting"]:
        raise StorageError(
            "EB5013",
            "this database is read-only by a setting",
            where=where,
            why="default_transaction_read_only is on; inbox, outbox and leases must be written",
            next="ALTER DATABASE or ROLE … RESET default_transaction_read_only | another role",
        )
    row = await connection.fetchrow(SERVER)
    return row["system"], row["timeline"]


async def findings(pools: Pools) -> Sequence[Finding]:
    """Entered: the server's answers; else from the configuration alone."""
    found = list(_of_configuration(pools))
    if pools.server is None:
        return found
    try:
        async with pools.connecting() as connection:
            rows = await connection.fetch(_SETTINGS)
            standby = await connection.fetchval("SELECT pg_is_in_recovery()")
    except StorageError as error:
        return [*found, _unasked(error)]
    settings = {row["name"]: row["setting"] for row in rows}
    return [*found, *of_server(settings, standby=bool(standby))]


def _of_configuration(pools: Pools) -> Sequence[Finding]:
    config = pools.config
    found = []
    if config.pgbouncer:
        found.append(
            Finding(
                level="say",
                code="EB1117",
                what="PgBouncer in transaction mode: no LISTEN",
                why="wake-ups from other processes do not arrive; latency is the poll interval",
                next="nothing to do; give the server's own timeouts by ALTER ROLE … SET",
            )
        )
    if not config.is_local and "sslmode=verify-full" not in config.dsn:
        found.append(
            Finding(
                level="warn",
                code="EB1118",
                what="the connection to PostgreSQL is not verified",
                why="without sslmode=verify-full anybody on the way may answer, and read",
                next="postgresql://…?sslmode=verify-full",
            )
        )
    return found


def of_server(settings: Mapping[str, str], *, standby: bool) -> list[Finding]:
    """What its settings weaken or break."""
    found = []
    if settings.get("fsync") == "off":
        found.append(
            Finding(
                level="refuse",
                code="EB1119",
                what="PostgreSQL runs with fsync=off",
                why="a crash of its host may lose or corrupt everything",
                next="fsync = on",
            )
        )
    if settings.get("synchronous_commit") in {"off", "local"}:
        found.append(
            Finding(
                level="warn",
                code="EB1120",
                what=f"synchronous_commit is {settings['synchronous_commit']}",
                why="the last commits before a crash can vanish although they were confirmed",
                next="synchronous_commit = on",
            )
        )
    if not settings.get("synchronous_standby_names"):
        found.append(
            Finding(
                level="say",
                code="EB1121",
                what="no synchronous standby",
                why="a failover may lose acknowledged commits",
                next="synchronous_standby_names, if that must not be",
            )
        )
    if standby:
        found.append(
            Finding(
                level="refuse",
                code="EB5013",
                what="this server is a read-only standby",
                why="inbox, outbox and leases must be written",
                next="connect to the primary: ?target_session_attrs=primary",
            )
        )
    return found


def _unasked(error: StorageError) -> Finding:
    return Finding(
        level="warn",
        code=error.code,
        what="the server could not be asked for its settings",
        why=error.what,
        next="eventbus doctor, once it answers",
    )
