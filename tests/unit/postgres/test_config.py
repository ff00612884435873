"""What a URL says, and what it must not."""

import pytest

from eventbus.errors import ConfigurationError
from eventbus.postgres import PostgresConfig
from eventbus.postgres.config import config_of
from eventbus.postgres.storage import open_storage

HOST = "postgresql://me:secret@db.example:5433/shop"


def test_ours_is_taken_out_and_the_rest_goes_to_the_driver() -> None:
    config = config_of(
        f"{HOST}?schema=bus_2&sslmode=verify-full&pool=7&pgbouncer=true&idle=90", "shop"
    )
    assert config == PostgresConfig(
        dsn=f"{HOST}?sslmode=verify-full",
        schema="bus_2",
        service="shop",
        pool=7,
        pgbouncer=True,
        idle_seconds=90,
    )


def test_a_configuration_that_is_shown_shows_no_password() -> None:
    assert "secret" not in repr(config_of(f"{HOST}?pool=7", "shop"))


def test_opening_connects_to_nothing() -> None:
    storage = open_storage(HOST, "shop")
    assert storage.config.schema == "eventbus"
    assert storage.trouble is None
    assert storage.capabilities.durable
    assert storage.capabilities.shared


@pytest.mark.parametrize(
    "query",
    [
        "schema=Shop",
        "schema=a-b",
        "schema=",
        "schema=x;DROP",
        f"schema={'a' * 42}",
        "pool=0",
        "pool=many",
        "pool=1001",
        "pgbouncer=yes",
        "idle=0",
        "idle=soon",
        "idle=90000",
    ],
)
def test_what_cannot_be_used_is_named(query: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config_of(f"{HOST}?{query}", "shop")
    assert caught.value.code == "EB1006"
    assert query.partition("=")[0] in caught.value.where


def test_error_texts_show_no_secret() -> None:
    config = config_of(f"{HOST}?password=secret", "shop")
    assert config.where == "postgresql://db.example:5433/shop"


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ("", "postgresql://me@db.example:5433/shop"),
        ("?schema=eventbus&pool=3", "postgresql://me@db.example:5433/shop"),
        (
            "?password=secret&sslmode=require&schema=bus_2",
            "'postgresql://me@db.example:5433/shop?sslmode=require&schema=bus_2'",
        ),
    ],
)
def test_what_an_operator_types_reaches_the_same_schema(given: str, typed: str) -> None:
    assert config_of(f"{HOST}{given}", "shop").url == typed


@pytest.mark.parametrize(
    ("dsn", "local"),
    [
        ("postgresql://localhost/x", True),
        ("postgresql:///x", True),
        ("postgresql:///x?host=/run/postgresql", True),
        ("postgresql://127.0.0.1:5432,[::1]:5433/x", True),
        ("postgresql://[::1]/x", True),
        (HOST, False),
        ("postgresql://localhost,db.example/x", False),
        ("postgresql:///x?host=db.example", False),
    ],
)
def test_whether_a_network_lies_between(dsn: str, local: bool) -> None:
    assert PostgresConfig(dsn=dsn).is_local is local


@pytest.mark.parametrize(
    ("dsn", "several"),
    [
        (HOST, False),
        ("postgresql://a,b/x", True),
        ("postgresql:///x?host=a,b", True),
        ("postgresql://a,b/x?target_session_attrs=any", False),
    ],
)
def test_of_several_hosts_the_primary_is_looked_for(dsn: str, several: bool) -> None:
    assert PostgresConfig(dsn=dsn).several_hosts is several
