"""`eventbus event head` and `note`: how a stream stands, and what is noted on it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from eventbus.cli.changing import confirm
from eventbus.cli.flags import Command, Settings
from eventbus.cli.meant import no_stream
from eventbus.cli.output import cell, show_facts
from eventbus.cli.recorded import with_log

if TYPE_CHECKING:
    from eventbus.sourcing import EventLog
    from eventbus.storage.events import StreamHead

_tenant = click.option("--tenant", default="", help="Whose stream it is.")


@click.command("head", cls=Command)
@click.argument("stream")
@_tenant
@click.pass_obj
def head(settings: Settings, stream: str, tenant: str) -> None:
    """How a stream stands: its version, its state, from where it is kept, its metadata."""
    stands = with_log(settings, lambda log: head_of(log, stream, tenant))
    facts = {"stream": stream, "tenant": tenant, **asdict(stands)}
    facts["metadata"] = dict(stands.metadata)
    show_facts(settings, "event head", facts, _lines(stands))


@click.command("note", cls=Command)
@click.argument("stream")
@click.argument("metadata", nargs=-1, metavar="[NAME=VALUE]...")
@_tenant
@click.option("--clear", is_flag=True, help="What is not named here is taken off.")
@click.pass_obj
def note_(
    settings: Settings, stream: str, metadata: tuple[str, ...], tenant: str, *, clear: bool
) -> None:
    """Note metadata on a stream: what is named is replaced, the rest stays."""
    if not metadata and not clear:
        raise click.UsageError("name what is noted: NAME=VALUE; --clear takes everything off")
    told = dict(_named(each) for each in metadata)

    async def noted(log: "EventLog") -> dict[str, str]:
        stands = await head_of(log, stream, tenant)
        return told if clear else {**stands.metadata, **told}

    after = with_log(settings, noted)
    if not settings.dry_run:
        confirm(settings, f"{stream}: {_text(after)}")
        with_log(settings, lambda log: log.note(stream, after, tenant=tenant))
    facts = {"stream": stream, "tenant": tenant, "metadata": after, "dry_run": settings.dry_run}
    line = f"{'would be: ' if settings.dry_run else ''}{cell(stream)}: {_text(after)}"
    show_facts(settings, "event note", facts, [line])


async def head_of(log: "EventLog", stream: str, tenant: str) -> "StreamHead":
    """How it stands.

    Raises:
        EventBusError: EB8007, there is none.
    """
    found = await log.head(stream, tenant=tenant)
    if found is None:
        raise await no_stream(log, stream)
    return found


def _named(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise click.UsageError(f"{text!r} is no NAME=VALUE")
    return name, value


def _lines(stands: "StreamHead") -> list[str]:
    facts: dict[str, Any] = {
        "version": stands.version,
        "state": stands.state,
        "kept from": stands.kept_from,
        **{f"note {name}": value for name, value in stands.metadata.items()},
    }
    return [f"{cell(name):<15} {cell(value)}" for name, value in facts.items()]


def _text(metadata: Mapping[str, str]) -> str:
    return ", ".join(f"{cell(name)}={cell(value)}" for name, value in metadata.items()) or "nothing"
