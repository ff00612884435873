"""What a deployment decides about the database, frozen, also from a URL."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

from eventbus.errors import ConfigurationError

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,40}")
_PORT = re.compile(r":\d*$")
_OURS = ("schema", "pool", "pgbouncer", "idle")
_LOCAL = {"", "localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresConfig:
    """Where the database is and how it is used.

    Args:
        dsn: what asyncpg takes.
        schema: where our tables stand; several buses may share a database.
        service: part of `application_name`: what an operator sees in pg_stat_activity.
        pool: connections for lanes and user code; lanes + 2 lets every lane work at once.
        pgbouncer: a pooler in transaction mode stands between: no LISTEN, no prepared statements.
        idle_seconds: the server ends a transaction that sends nothing for so long; above the
            timeout of every group that handles in one.
        command_seconds: no statement is waited for longer.

    Raises:
        ConfigurationError: EB1006, a value cannot be used.
    """

    dsn: str = field(repr=False)  # it holds a password
    schema: str = "eventbus"
    service: str = "local"
    pool: int = 18
    pgbouncer: bool = False
    idle_seconds: int = 45
    command_seconds: float = 10.0
    acquire_seconds: float = 10.0
    connect_seconds: float = 3.0

    def __post_init__(self) -> None:
        if not _SCHEMA.fullmatch(self.schema):
            raise _bad("schema", self.schema, "lower case, digits and underscores, at most 41")
        if not 1 <= self.pool <= 1000:
            raise _bad("pool", str(self.pool), "a number from 1 to 1000")
        if not 1 <= self.idle_seconds <= 86_400:
            raise _bad("idle", str(self.idle_seconds), "whole seconds, from 1 to 86400")

    @property
    def where(self) -> str:
        """The database without secrets, for error texts."""
        parts = urlsplit(self.dsn)
        hosts = parts.netloc.rpartition("@")[2]
        return f"postgresql://{hosts}{parts.path}"

    @property
    def url(self) -> str:
        """What an operator types after `--storage` to reach it: all but the password."""
        parts = urlsplit(self.dsn)
        user, at, hosts = parts.netloc.rpartition("@")
        query = [one for one in parse_qsl(parts.query) if one[0] != "password"]
        if self.schema != "eventbus":
            query.append(("schema", self.schema))
        netloc = f"{user.partition(':')[0]}{at}{hosts}"
        asked = urlencode(query, safe="/")
        return shlex.quote(urlunsplit(("postgresql", netloc, parts.path, asked, "")))

    @property
    def is_local(self) -> bool:
        """Whether no network lies between."""
        given = parse_qs(urlsplit(self.dsn).query).get("host", [""])[0]
        hosts = urlsplit(self.dsn).netloc.rpartition("@")[2] or given
        names = {_PORT.sub("", one).strip("[]") for one in hosts.split(",")}
        return all(name in _LOCAL or name.startswith("/") for name in names)

    @property
    def several_hosts(self) -> bool:
        """Whether a primary must be looked for, and nothing says which kind of server it may be."""
        parts = urlsplit(self.dsn)
        hosts = f"{parts.netloc} {parse_qs(parts.query).get('host', [''])[0]}"
        return "," in hosts and "target_session_attrs" not in parts.query


def config_of(url: str, service: str) -> PostgresConfig:
    """From `postgresql://…/db?schema=…&pool=…&pgbouncer=true&idle=…`; the rest is the driver's.

    Raises:
        ConfigurationError: EB1006.
    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    ours = {name: given.pop(name) for name in _OURS if name in given}
    dsn = urlunsplit(parts._replace(query=urlencode(given)))
    pool = _number(ours, "pool", 18)
    idle = _number(ours, "idle", 45)
    flag = ours.get("pgbouncer", "false").lower()
    if flag not in {"true", "false"}:
        raise _bad("pgbouncer", flag, "true or false")
    return PostgresConfig(
        dsn=dsn,
        schema=ours.get("schema", "eventbus"),
        service=service,
        pool=pool,
        pgbouncer=flag == "true",
        idle_seconds=idle,
    )


def _number(given: Mapping[str, str], name: str, otherwise: int) -> int:
    try:
        return int(given.get(name, otherwise))
    except ValueError:
        raise _bad(name, given[name], "a whole number") from None


def _bad(name: str, value: str, wanted: str) -> ConfigurationError:
    return ConfigurationError(
        "EB1006",
        f"{name}={value!r} cannot be used",
        where=f"storage=postgresql://…?{name}=",
        why=f"it must be {wanted}",
        next="mend the URL",
    )
