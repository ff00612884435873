"""Dead letters that stand at a broker, for buses without a storage."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from eventbus.cli.brokers import with_transport
from eventbus.cli.flags import Settings
from eventbus.cli.locate import app_of, called, target_of
from eventbus.cli.output import note
from eventbus.errors import ConfigurationError

if TYPE_CHECKING:
    from eventbus.transport import Delivery, Transport

_URLS = {"kafka": "--transport kafka://host:9092", "rabbit": "--transport amqp://host/"}
OURS = "native:eventbus-dead-"
_DEATHS = "native:x-death"  # an array, one per queue and reason, the last death first


def letters_at(settings: Settings, place: str, most: int) -> Sequence[Mapping[str, Any]]:
    """Rows of `kafka:TOPIC` or `rabbit:QUEUE`, oldest first; nothing is taken from there.

    Raises:
        ConfigurationError: EB8001, the place or the transport does not fit.
        TransportError: EB2001, no answer in time; or what the broker says.
    """
    scheme, name, transport = transport_at(settings, place)
    seen = _browsed(settings, transport, name, most)
    if len(seen) == most:
        note(settings, f"only the first {most:,} of {place} were read")
    rows = [row_of(scheme, delivery) for delivery in seen]
    return sorted(rows, key=lambda row: -(row["age_seconds"] or 0.0))  # stable: unknown ones last


def transport_at(settings: Settings, place: str) -> "tuple[str, str, Transport]":
    """Scheme, name of the topic or queue, and the transport, not entered. Raises EB8001."""
    scheme, colon, name = place.partition(":")
    if not colon or not name or scheme not in _URLS:
        raise _unfit(f"no place of dead letters: {place}", "--from kafka:TOPIC | rabbit:QUEUE")
    return scheme, name, _transport(settings, scheme)


def _transport(settings: Settings, scheme: str) -> "Transport":
    from eventbus.bus.report import scheme_of
    from eventbus.transport import open_transport

    if settings.transport is None and target_of(settings) is None:
        raise _unfit("no transport was named", f"{_URLS[scheme]} | --app app:bus")
    named = settings.transport or app_of(settings).transport
    if scheme_of(named) != scheme:
        raise _unfit(f"the transport named is not {scheme}", f"{_URLS[scheme]} | --app app:bus")
    return open_transport(named, "operator") if isinstance(named, str) else named


def _browsed(
    settings: Settings, transport: "Transport", name: str, most: int
) -> "Sequence[Delivery]":
    from eventbus.transport import Browsable

    async def look(transport: "Transport") -> "Sequence[Delivery]":
        if not isinstance(transport, Browsable):
            raise _unfit("this transport cannot be looked into", "ask the broker's own tools")
        return await transport.browse(name, limit=most)

    return with_transport(settings, transport, look)


def _unfit(what: str, next: str) -> ConfigurationError:
    return ConfigurationError(
        "EB8001",
        what,
        where=called(),
        why="letters of a bus without a storage stand at its broker, in a topic or a queue",
        next=next,
    )


def row_of(scheme: str, delivery: "Delivery") -> dict[str, Any]:
    """What an operator is shown of it."""
    message = delivery.message
    facts = {
        name.removeprefix(OURS): text
        for name, text in message.headers.items()
        if name.startswith(OURS)
    }
    death = _last_death(message.headers.get(_DEATHS))
    count = facts.get("attempts", "")
    return {
        "id": message.id,
        "type": message.type,
        "key": message.key,
        "group": facts.get("group"),
        "topic": message.topic,
        "source": message.source,
        "attempts": int(count) if count.isdecimal() else None,
        "age_seconds": _age(facts.get("at") or death.get("time")),
        "reason": facts.get("reason") or death.get("reason"),
        "code": facts.get("error-code"),
        "error_type": facts.get("error-type"),
        "error": facts.get("error-message") or delivery.malformed,
        "fingerprint": facts.get("fingerprint"),
        "origin": facts.get("origin") or _died_in(scheme, death),
        "place": f"{scheme}:{delivery.partition}/{delivery.offset}",
        "payload": message.payload,
        "headers": dict(message.headers),
    }


def _last_death(text: str | None) -> Mapping[str, Any]:
    """What the broker says of a message that it moved itself; others may have written anything."""
    try:
        deaths = json.loads(text or "[]")
    except ValueError:
        return {}
    first = deaths[0] if isinstance(deaths, list) and deaths else {}
    known = first if isinstance(first, dict) else {}
    return {name: value for name, value in known.items() if isinstance(value, str)}


def _died_in(scheme: str, death: Mapping[str, Any]) -> str | None:
    return f"{scheme}:{death['queue']}" if "queue" in death else None


def _age(text: str | None) -> float | None:
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return round((datetime.now(UTC) - at).total_seconds(), 3) if at.tzinfo is not None else None
