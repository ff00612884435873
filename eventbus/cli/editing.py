"""`eventbus dead-letter edit`: another body, under the eyes of the app's codec."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eventbus.bus import DeadLetters
from eventbus.cli.changing import confirm
from eventbus.cli.failures import DONE
from eventbus.cli.flags import Settings
from eventbus.cli.locate import app_of
from eventbus.cli.output import note, show_facts
from eventbus.cli.rows import row_of
from eventbus.cli.storages import actor, with_storage
from eventbus.sealing import hidden

if TYPE_CHECKING:
    from eventbus.inspection import Inspected


def edited(settings: Settings, id: str, data: str | None, reason: str) -> int:
    """Show the difference, ask, edit; the exit code.

    Raises:
        CodecError: the new body would be quarantined again; nothing was changed.
    """
    types = asyncio.run(app_of(settings).describe()).types
    old = bytes(row_of(settings, "dead-letter", id)["payload"])
    payload = body(old, data)
    difference = f"- {old.decode(errors='replace')}\n+ {payload.decode(errors='replace')}"
    note(settings, hidden(difference))

    async def ask(storage: "Inspected") -> int:
        letters = DeadLetters(storage.inspection, types)
        return await letters.edit(id, payload, actor=actor(), reason=reason)

    if not settings.dry_run:
        confirm(settings, "1 message of dead-letter: edited")
    count = 1 if settings.dry_run else with_storage(settings, ask)
    facts: dict[str, Any] = {"verb": "edit", "place": "dead-letter", "count": count}
    facts |= {"unit": "message", "dry_run": settings.dry_run, "missing": []}
    show_facts(settings, "dead-letter edit", facts, [f"{count} edited; redrive tries it again"])
    return DONE


def body(old: bytes, data: str | None) -> bytes:
    """The new body: as given, from a file, or from $EDITOR.

    Raises:
        click.UsageError: the file cannot be read, or the editor saved nothing.
    """
    if data is None:
        text = click.edit(old.decode(), extension=".json", require_save=True)
        if text is None:
            raise click.UsageError("the editor saved nothing")
        return text.strip().encode()
    if not data.startswith("@"):
        return data.encode()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise click.UsageError(f"--data {data}: {error.strerror}") from error
