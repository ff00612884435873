"""`eventbus event truncate`, `archive` and `tombstone`: what there is no way back from."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from eventbus.cli.changing import confirm
from eventbus.cli.flags import Command, Settings, all_of
from eventbus.cli.output import cell, show_facts
from eventbus.cli.recorded import with_log
from eventbus.cli.storages import actor
from eventbus.cli.streams import head_of

if TYPE_CHECKING:
    from eventbus.sourcing import EventLog
    from eventbus.storage.events import StreamHead

_stream = all_of(
    [
        click.argument("stream"),
        click.option("--tenant", default="", help="Whose stream it is."),
        click.option("--reason", default="", help="Why, for the audit."),
    ]
)


@click.command(cls=Command)
@_stream
@click.option(
    "--before", required=True, type=click.IntRange(2), help="The first version that is kept."
)
@click.pass_obj
def truncate(settings: Settings, stream: str, tenant: str, reason: str, before: int) -> None:
    """Let a stream begin at a later version: what lies before is deleted in time."""
    from eventbus.sourcing.life import refuse_to_cut

    stands = _stands(settings, stream, tenant)
    refuse_to_cut(stream, before, stands)
    _change(
        settings,
        "truncate",
        stream,
        tenant,
        gone=max(0, before - stands.kept_from),
        new=before > stands.kept_from,
        do=lambda log: log.truncate(
            stream, before=before, tenant=tenant, actor=actor(), reason=reason
        ),
    )


@click.command(cls=Command)
@_stream
@click.pass_obj
def archive(settings: Settings, stream: str, tenant: str, reason: str) -> None:
    """Close a stream: it takes no more events, and is read as before."""
    stands = _stands(settings, stream, tenant)
    _change(
        settings,
        "archive",
        stream,
        tenant,
        gone=0,
        new=stands.state == "open",
        do=lambda log: log.archive(stream, tenant=tenant, actor=actor(), reason=reason),
    )


@click.command(cls=Command)
@_stream
@click.pass_obj
def tombstone(settings: Settings, stream: str, tenant: str, reason: str) -> None:
    """End a stream: nothing of it is shown, all of it is deleted in time, its name stays taken."""
    stands = _stands(settings, stream, tenant)
    new = stands.state != "tombstoned"
    _change(
        settings,
        "tombstone",
        stream,
        tenant,
        gone=stands.version + 1 - stands.kept_from if new else 0,
        new=new,
        do=lambda log: log.tombstone(stream, tenant=tenant, actor=actor(), reason=reason),
    )


def _stands(settings: Settings, stream: str, tenant: str) -> "StreamHead":
    return with_log(settings, lambda log: head_of(log, stream, tenant))


_RESULTS = {"truncate": "truncated", "archive": "archived", "tombstone": "tombstoned"}


def _change(
    settings: Settings,
    verb: str,
    stream: str,
    tenant: str,
    *,
    gone: int,
    new: bool,
    do: "Callable[[EventLog], Awaitable[bool]]",
) -> None:
    """Say what goes out of sight, ask, change, say what became of it."""
    result = f"{cell(stream)}: {_RESULTS[verb]}"
    events = f"{gone:,} event{'' if gone == 1 else 's'} out of sight"
    if new and not settings.dry_run:
        confirm(settings, f"{result}, {events}; this cannot be undone")
        new = with_log(settings, do)
    facts = {
        "verb": verb,
        "stream": stream,
        "tenant": tenant,
        "events": gone,
        "changed": new,
        "dry_run": settings.dry_run,
    }
    would = "would be: " if settings.dry_run else ""
    line = f"{would}{result}, {events}" if new else f"{result} before, nothing is changed"
    show_facts(settings, f"event {verb}", facts, [line])
