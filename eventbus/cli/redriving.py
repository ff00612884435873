"""Dead letters at a broker, sent to their topic again for the group that gave them up."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eventbus.cli.brokers import with_transport
from eventbus.cli.changing import confirm
from eventbus.cli.failures import DONE, PARTLY
from eventbus.cli.flags import Settings
from eventbus.cli.letters import OURS, letters_at, row_of, transport_at
from eventbus.cli.locate import called
from eventbus.cli.output import note, show_facts
from eventbus.cli.storages import kept
from eventbus.errors import EventBusError

if TYPE_CHECKING:
    from eventbus.inspection import Selection
    from eventbus.message import Message
    from eventbus.transport import Delivery, Transport

_MOST = 10_000


def redrive_from(
    settings: Settings,
    place: str,
    what: "Selection",
    *,
    reason: str = "",
    rate: float | None = None,
    limit: int | None = None,
) -> int:
    """Count, ask, send again what is selected; the exit code.

    From a queue a letter is taken once the broker has confirmed it at its topic: a crash in
    between gives a second one, never none. A topic of Kafka keeps it.

    Raises:
        EventBusError: EB8001, the place does not fit; EB8002, not confirmed; EB8004, none of the
            ids is there; EB8010, a letter does not say where it came from; what the broker says.
    """
    rows = letters_at(settings, place, _MOST)
    fits = _chooses(what)
    chosen = [row for row in rows if fits(row)][:limit]
    there = {row["id"] for row in chosen}
    missing = [each for each in what.ids if each not in there] if limit is None else []
    if what.ids and not chosen:
        raise _not_there(next(iter(what.ids)), place)
    affected = f"{len(chosen):,} message{'' if len(chosen) == 1 else 's'}"
    for one in missing:
        note(settings, f"not found: {one}")
    if chosen and not settings.dry_run:
        confirm(settings, f"{affected} of {place}: sent again")
        sending = _Sending(place, fits, rate, len(chosen))
        try:
            with_transport(settings, transport_at(settings, place)[2], sending.run)
        except EventBusError:
            note(settings, f"sent again before it failed: {sending.sent:,}")
            raise
        finally:
            if sending.sent:
                told = {"from": place, **json.loads(what.as_json())}
                kept(settings, "redrive", told, changed=sending.sent, reason=reason)
    facts: dict[str, Any] = {
        "verb": "redrive",
        "place": place,
        "count": len(chosen),
        "unit": "message",
        "dry_run": settings.dry_run,
        "missing": missing,
    }
    lead = "would be: " if settings.dry_run else ""
    show_facts(settings, "dead-letter redrive --from", facts, [f"{lead}{affected} sent again"])
    return PARTLY if missing else DONE


class _Sending:
    """Goes through the place once, so that what fails anew at once does not come round again."""

    def __init__(
        self, place: str, fits: "Callable[[Mapping[str, Any]], bool]", rate: float | None, most: int
    ) -> None:
        self.sent = 0
        self._scheme, _, self._name = place.partition(":")
        self._fits = fits
        self._pause = 0.0 if rate is None else 1 / rate
        self._most = most

    async def run(self, transport: "Transport") -> None:
        from eventbus.transport import Browsable, Takeable

        async def wanted(delivery: "Delivery") -> bool:
            return await self._send(transport, delivery)

        if isinstance(transport, Takeable):
            await transport.take(self._name, limit=_MOST, wanted=wanted)
        elif isinstance(transport, Browsable):
            for delivery in await transport.browse(self._name, limit=_MOST):
                await wanted(delivery)

    async def _send(self, transport: "Transport", delivery: "Delivery") -> bool:
        row = row_of(self._scheme, delivery)
        if self.sent == self._most or not self._fits(row):
            return False
        if self.sent and self._pause:
            await asyncio.sleep(self._pause)
        await transport.publish([_again(delivery.message, self._name, row)])
        self.sent += 1
        return True


def _chooses(what: "Selection") -> "Callable[[Mapping[str, Any]], bool]":
    facts = {
        name: value
        for name in ("group", "key", "type", "fingerprint")
        if (value := getattr(what, name)) is not None
    }
    ids = set(what.ids)

    def fits(row: Mapping[str, Any]) -> bool:
        return (not ids or row["id"] in ids) and all(row[n] == value for n, value in facts.items())

    return fits


def _again(message: "Message", place: str, row: Mapping[str, Any]) -> "Message":
    """As it was published, with the group that it is for."""
    from eventbus.transport import REDRIVEN_TO, dead_topic

    group = row["group"]
    topic = place.removesuffix(dead_topic("", group or ""))
    if group is None or topic == place:
        raise EventBusError(
            "EB8010",
            f"message {row['id']} does not say which group gave it up",
            where=called(),
            why="only letters that a group without a storage wrote know where they belong",
            next="move it with the broker's own tools (a shovel, rabbitmqadmin)",
        )
    headers = {
        name: text
        for name, text in message.headers.items()
        if not name.startswith((OURS, "native:x-"))
    }
    return replace(message, topic=topic, headers={**headers, REDRIVEN_TO: group})


def _not_there(id: str, place: str) -> EventBusError:
    return EventBusError(
        "EB8004",
        f"no such message: {id}",
        where=called(),
        why=f"{place} holds no letter of this id",
        next=f"eventbus dead-letter list --from {place}",
    )
