"""Pages of what lies around: environment variables, and what transports and storages can do."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import timedelta

import click

from eventbus.cli.flags import global_flags, worker_flags
from eventbus.cli.main import eventbus
from eventbus.storage import StorageCapabilities, open_storage
from eventbus.transport import (
    Browsable,
    Capabilities,
    HasAddresses,
    HasTopology,
    Takeable,
    open_transport,
)
from tests.docs.pages import ROOT

READ = re.compile(r"environ(?:\.get\(|\.pop\(|\[)\"([A-Z_]+)\"|\b(_?EVENTBUS_[A-Z_]*[A-Z])\b")
OTHERS = {
    "NO_COLOR": "plain text on a terminal, as `EVENTBUS_NO_COLOR`",
    "_EVENTBUS_COMPLETE": "set by the scripts of `eventbus completion`",
    "EVENTBUS_TEST_POSTGRES_URL": "the PostgreSQL of the test fixtures, not one that is started",
    "EVENTBUS_TEST_RABBIT_URL": "the RabbitMQ",
    "EVENTBUS_TEST_KAFKA_URL": "the Kafka",
    "EVENTBUS_TEST_RABBIT_MANAGEMENT_URL": "its management, if not 10,000 ports above",
    "EVENTBUS_TEST_POSTGRES_IMAGE": "the image of Docker; `_RABBIT_` and `_KAFKA_` likewise",
    "EVENTBUS_TEST_SERVICES_DIR": "where running test services are written down",
    "CI": "`true`: tests that lack a service fail instead of being skipped",
    "XDG_CACHE_HOME": "where Kafka's jars and the state of test services lie; `~/.cache`",
    "PATH": "where native PostgreSQL, RabbitMQ and Java of the test services are looked for",
    "JAVA_HOME": "the Java of a native Kafka",
    "DOCKER_TLS_VERIFY": "whether Docker is asked by TLS; its client reads more",
}
TRANSPORTS = {
    "memory": "memory://",
    "kafka": "kafka://localhost",
    "amqp": "amqp://localhost",
}
STORAGES = {
    "sqlite in memory": "sqlite://",
    "sqlite file": "sqlite:///app.db",
    "postgresql": "postgresql://localhost/app",
}
MEANINGS = {
    "durable": "what `publish` returned for survives a restart of the broker",
    "ordered_by_key": "messages of a key arrive in order, also after a member of the group died",
    "consumer_groups": "members of a group share its messages",
    "replays_history": "a new group sees what was published before it existed",
    "filters_types": "a group gets only the types it asked for",
    "stops_at_refusal": "stores nothing of a key behind a message that was refused or is unknown",
    "max_body": "bytes of a body; `publish` refuses more",
}
OPTIONAL = {
    "eventbus topology": lambda transport: isinstance(transport, HasTopology),
    "replay of what was published: `transport.replay(…)`": lambda transport: hasattr(
        transport, "replay"
    ),
    "servers and bindings in `eventbus asyncapi generate`": lambda transport: isinstance(
        transport, HasAddresses
    ),
    "eventbus dead-letter list --from": lambda transport: isinstance(transport, Browsable),
    "a redriven letter leaves its queue": lambda transport: isinstance(transport, Takeable),
}
KEPT = {
    "durable": "what is committed survives the end of the process",
    "shared": "by any number of processes",
    "concurrent": "transactions run at once; else they take turns",
    "distant": "on a server: each statement is a round trip",
    "longest_idle": "the server ends a transaction that sends nothing for so long; `idle=`",
}


def environment_page(hint: str) -> str:
    """Every variable that is read."""
    workers = {option.name: option for option in _options(worker_flags(lambda: None))}
    parts = [
        "# Environment variables",
        hint,
        "A flag on the command line wins over its variable. Switches take `1`, `true`, `yes`, "
        "`on`; a flag that may be repeated takes several\nvalues, with spaces between. An empty "
        "variable counts as not set. `--env-file FILE` adds what is not set yet.",
        "Nothing but the command line and the test fixtures reads variables of ours: a bus that "
        "your code makes gets what your code says. Flags\nthat select what a change touches have "
        "none, so that one that was left behind cannot widen it. `EVENTBUS_YES` agrees to every "
        "change:\nset it for one command, never for a shell.",
        "## Every command",
        _table(_row(option) for option in global_flags(hidden=False)),
        "## Workers",
        "`eventbus run`, `eventbus saga worker` and `eventbus outbox relay`.",
        _table(_row(option) for option in workers.values() if option.envvar),
        "## Single commands",
        _table(_single(set(workers))),
        "## Not of a flag",
        _table(f"| `{name}` | {meaning} |" for name, meaning in OTHERS.items()),
        "asyncpg reads `PGPASSWORD`, `PGPASSFILE`, `PGSSLMODE`, `PGSSLROOTCERT` and others of "
        "libpq's for what a `postgresql://` URL leaves out:\nso its password need not stand in the "
        "URL. Kafka and RabbitMQ have no such variables.",
    ]
    return "\n\n".join(parts) + "\n"


def _options(command: object) -> list[click.Option]:
    found: list[click.Option] = getattr(command, "__click_params__", [])
    return found[::-1]


def _single(known: set[str | None]) -> Iterator[str]:
    from tests.docs.generated import walk

    commands: dict[str, list[str]] = {}
    lines: dict[str, click.Option] = {}
    for path, command in walk(eventbus, click.Context(eventbus, info_name="eventbus"), "eventbus"):
        for option in command.params:
            shown = isinstance(option, click.Option) and not option.hidden and option.envvar
            if shown and (option.name not in known or path == "eventbus dev"):
                commands.setdefault(str(option.envvar), []).append(f"`{path}`")
                assert isinstance(option, click.Option)
                lines[str(option.envvar)] = option
    for name, option in lines.items():
        yield f"| `{name}` | `{option.opts[0]}` of {', '.join(commands[name])} |"


def _row(option: click.Option) -> str:
    text = (option.help or "").partition("  $")[0].replace("|", "\\|")
    return f"| `{option.envvar}` | `{option.opts[0]}`: {text} |"


def _table(rows: Iterator[str]) -> str:
    return "\n".join(["| variable | meaning |", "| --- | --- |", *rows])


def variables_in_the_source() -> set[str]:
    """What the code names; a prefix that names are made from ends in an underscore, and is none."""
    files = (
        file
        for package in ("eventbus", "eventbus_kafka", "eventbus_rabbit")
        for file in (ROOT / package).rglob("*.py")
    )
    return {one or other for file in files for one, other in READ.findall(file.read_text("utf-8"))}


def capabilities_page(hint: str) -> str:
    """What each adapter says of itself; the conformance suites hold it to that."""
    transports = {name: open_transport(url, "docs") for name, url in TRANSPORTS.items()}
    storages = {name: open_storage(url, "docs") for name, url in STORAGES.items()}
    optional = [
        _compared(
            f"`{what}`" if what.startswith("eventbus") else what, map(has, transports.values())
        )
        for what, has in OPTIONAL.items()
    ]
    parts = [
        "# Capabilities",
        hint,
        "What transports and storages say of themselves, with the defaults of their URLs. The "
        "conformance suites hold each of them to it.\nWhat follows for a group: "
        "[guarantees](../guarantees.md), `eventbus guarantees app:bus`.",
        "## Transports",
        _head(transports),
        _rows(Capabilities, MEANINGS, {n: one.capabilities for n, one in transports.items()}),
        "What is possible besides:",
        _head(transports),
        "\n".join(optional),
        "Where types are not filtered, members get every message of the topic, and pass over what "
        "their group does not want.",
        "## Storages",
        _head(storages),
        _rows(StorageCapabilities, KEPT, {n: one.capabilities for n, one in storages.items()}),
    ]
    text = "\n\n".join(parts) + "\n"
    return text.replace("| --- |\n\n|", "| --- |\n|")


def _head(columns: Mapping[str, object]) -> str:
    names = " | ".join(f"`{name}`" for name in columns)
    return f"| | {names} |\n| --- |{' --- |' * len(columns)}"


def _rows(kind: type, meanings: Mapping[str, str], of: Mapping[str, object]) -> str:
    assert [each.name for each in fields(kind)] == list(meanings)
    return "\n".join(
        _compared(f"`{name}`: {meaning}", (getattr(one, name) for one in of.values()))
        for name, meaning in meanings.items()
    )


def _compared(what: str, values: Iterator[object]) -> str:
    return f"| {what} | {' | '.join(map(_said, values))} |"


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    return "-" if value is None else f"{value:,}"
