"""`eventbus event publish` and `replay`: what the app does, once."""

import asyncio
import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from eventbus.cli.changing import confirm
from eventbus.cli.failures import DONE
from eventbus.cli.flags import Settings
from eventbus.cli.locate import app_of, called
from eventbus.cli.output import note, show_facts
from eventbus.errors import ConfigurationError, DecodeError
from eventbus.event import Event

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.codec import Registry
    from eventbus.pubsub.replay import Between, Replayed
    from eventbus.storage.events import Position


def published(
    settings: Settings,
    type: str,
    *,
    data: str,
    key: str | None,
    headers: tuple[str, ...],
    untyped: bool,
) -> int:
    """Publish, and say under which id; the exit code.

    Raises:
        ConfigurationError: EB8008, the app has no class of this type.
        DecodeError: EB3102, the body does not fit the class.
    """
    bus = app_of(settings)
    body = _json(data)
    more = dict(_header(each) for each in headers)

    async def publish() -> str:
        types = (await bus.describe()).types
        what = None if untyped else _event(types, type, body)
        if settings.dry_run:
            return ""
        async with bus.client():
            if what is None:
                return await bus.publish(type, body, key=key, headers=more)
            return await bus.publish(what, headers=more)

    message_id = asyncio.run(publish())
    facts = {"id": message_id or None, "type": type, "dry_run": settings.dry_run}
    show_facts(settings, "event publish", facts, [message_id or "would be published"])
    return DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Of the log: what lies behind a position, up to another one, and between two moments."""

    after: "Position"
    upto: "Position | None"
    between: "Between"


def replayed(settings: Settings, group: str, part: Part) -> int:
    """Count, ask, replay, say how far it came; the exit code.

    Raises:
        ConfigurationError: EB1006, no such group; EB8002, nobody said yes.
        SourcingError: EB4206, an event failed.
    """
    bus = app_of(settings)
    count = asyncio.run(_counted(bus, group, part))
    affected = f"{count:,} events of the log: handled again by group {group!r}"
    if count and not settings.dry_run:
        confirm(settings, affected)

    def tell(done: "Replayed") -> None:
        note(settings, f"position {done.read_to}: {done.events:,} of {count:,} events")

    async def replay() -> "Replayed":
        async with bus.client():
            return await bus.replay(
                group, after=part.after, upto=part.upto, between=part.between, tell=tell
            )

    facts: dict[str, Any] = {"group": group, "events": count, "dry_run": settings.dry_run}
    if settings.dry_run or not count:
        facts |= {"withheld": 0, "position": None}
        line = f"would be: {affected}" if count else f"no event of the log for group {group!r}"
        show_facts(settings, "event replay", facts, [line])
        return DONE
    done = asyncio.run(replay())
    facts |= {"events": done.events, "withheld": done.withheld, "position": done.read_to}
    line = f"{done.events:,} events handled again, {done.withheld:,} messages withheld"
    show_facts(settings, "event replay", facts, [line])
    return DONE


async def _counted(bus: "EventBus", group: str, part: Part) -> int:
    """How many events the group would get.

    Raises:
        ConfigurationError: EB1006, no such group.
    """
    from eventbus.pubsub.replay import is_between, no_group

    groups = (await bus.describe()).groups
    if group not in groups:
        raise no_group(group, groups)
    count = 0
    async with bus.client():
        await bus.events.read_all(after=part.after, limit=1)  # one ahead of the log says so
        async for one in bus.events.search(after=part.after, upto=part.upto):
            wanted = groups[group].of(one.recorded.type).handlers
            count += bool(wanted) and is_between(one.recorded, part.between)
    return count


def _event(types: "Registry", type: str, body: dict[str, Any]) -> Event:
    cls = types.get(type)
    if cls is None or not issubclass(cls, Event):
        known = [each.__wire__.type for each in types.classes if each.__wire__ is not None]
        close = get_close_matches(type, known, n=3, cutoff=0.6)
        raise ConfigurationError(
            "EB8008",
            f"the app has no event {type!r}",
            where=called(),
            why=f"its types are: {', '.join(known) or 'none'}",
            next=" | ".join(f"eventbus event publish {one} …" for one in close)
            or "mend the type, or say --untyped",
        )
    try:
        return cls.model_validate_json(orjson.dumps(body))
    except ValueError as error:
        raise _does_not_fit(type, error) from None


def _does_not_fit(type: str, error: ValueError) -> DecodeError:
    """Paths and rules only: never a value."""
    lines: list[dict[str, Any]] = getattr(error, "errors", list)()
    why = [f"{'.'.join(map(str, line['loc'])) or 'body'}: {line['msg']}" for line in lines]
    return DecodeError(
        "EB3102",
        f"the body does not fit {type!r}",
        where=called(),
        why="; ".join(why[:5]) or "it does not validate",
        next="mend --data; nothing was published",
    )


def _json(data: str) -> dict[str, Any]:
    try:
        text = Path(data[1:]).read_text(encoding="utf-8") if data.startswith("@") else data
        body = json.loads(text)
    except OSError as error:
        raise click.UsageError(f"--data {data}: {error.strerror}") from error
    except ValueError as error:
        raise click.UsageError(f"--data is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise click.UsageError(f"--data is a JSON {type(body).__name__}, not an object")
    return body


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"--header {text}: write NAME=VALUE")
    return name, value
