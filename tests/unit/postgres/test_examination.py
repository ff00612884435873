"""Findings that need no server."""

from eventbus.postgres import PostgresConfig, PostgresStorage
from eventbus.postgres.examination import of_server


async def _codes(dsn: str, *, pgbouncer: bool = False) -> set[str]:
    storage = PostgresStorage(PostgresConfig(dsn=dsn, pgbouncer=pgbouncer))
    return {finding.code for finding in await storage.examine()}


async def test_an_unverified_connection_over_a_network_is_said() -> None:
    assert await _codes("postgresql://db.example/x") == {"EB1118"}
    assert await _codes("postgresql://db.example/x?sslmode=require") == {"EB1118"}
    assert await _codes("postgresql://db.example/x?sslmode=verify-full") == set()
    assert await _codes("postgresql://localhost/x") == set()


async def test_a_pooler_is_said() -> None:
    assert await _codes("postgresql://localhost/x", pgbouncer=True) == {"EB1117"}


def test_settings_that_break_a_promise_refuse_and_those_that_weaken_it_warn() -> None:
    good = {"fsync": "on", "synchronous_commit": "on", "synchronous_standby_names": "b"}
    assert of_server(good, standby=False) == []
    levels = {
        finding.code: finding.level
        for finding in of_server(
            {"fsync": "off", "synchronous_commit": "off", "synchronous_standby_names": ""},
            standby=True,
        )
    }
    assert levels == {"EB1119": "refuse", "EB1120": "warn", "EB1121": "say", "EB5013": "refuse"}
