"""What operators may look at and put right: the functions of the command line and the dashboard."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeVar

import orjson

from eventbus.errors import ConfigurationError, Finding
from eventbus.storage import Storage

T = TypeVar("T")

Kind = Literal["outbox", "parked", "dead-letter", "saga", "projection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Empty or None: all of the place."""

    place: Kind
    ids: Collection[str] = ()
    group: str | None = None
    key: str | None = None
    type: str | None = None
    fingerprint: str | None = None

    def as_json(self) -> str:
        """What of it is told, as the audit keeps it."""
        fields = asdict(self) | {"ids": sorted(self.ids)}
        return orjson.dumps({name: value for name, value in fields.items() if value}).decode()


Verb = Literal[
    "retry", "release", "bury", "redrive", "discard", "restore", "edit", "pause", "resume"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A change as a storage carries it out: who asks for what."""

    what: Selection
    actor: str
    audit: int  # its row, which discarded messages point to
    rate: float | None = None
    limit: int | None = None
    payload: bytes | None = None


class Inspection(Protocol):
    """Figures, rows, and changes that leave an audit row."""

    async def figures(self) -> Mapping[str, float]:
        """The database gauges of `docs/reference/metrics.md`; per group as `name{group}`.

        Counts stop at 10,000.
        """
        ...

    async def find(self, what: Selection, *, limit: int) -> Sequence[Mapping[str, Any]]:
        """Rows as an operator reads them: ids, keys, failures, ages in seconds.

        `payload` and `headers` as bytes and dict.
        """
        ...

    async def verify(self, *, sample: int = 0) -> Sequence[Finding]:
        """Read-only audit of outbox, inbox, parking, read models."""
        ...

    async def change(
        self,
        verb: Verb,
        what: Selection,
        *,
        actor: str,
        reason: str = "",
        rate: float | None = None,
        limit: int | None = None,
        payload: bytes | None = None,
        dry_run: bool = False,
    ) -> int:
        """Put something right in one transaction with its audit row; how many were changed.

        Args:
            verb: what to do (`docs/how-to/redrive-safely.md`).
            what: the rows; by `ids` they are message ids.
            actor: who asks.
            reason: why, for the audit.
            rate: keys per second that a redrive releases.
            limit: at most so many.
            payload: of `edit`, which takes exactly one id.
            dry_run: count, and roll back; no audit row.
        """
        ...

    async def note(
        self, verb: str, what: Mapping[str, Any], *, changed: int, actor: str, reason: str = ""
    ) -> None:
        """Keep who did what to something that stands elsewhere, at a broker: an audit row."""
        ...


class Inspected(Storage, Protocol):
    """Every storage of ours; a contract of its own because storage stands below."""

    @property
    def inspection(self) -> Inspection: ...


class Place:
    """What `bus.outbox`, `bus.parked` and `bus.dead_letters` are.

    An operator's view of one place.
    """

    def __init__(self, inspection: Inspection, kind: Kind) -> None:
        self._inspection = inspection
        self._kind = kind

    async def list(self, *, limit: int = 100, **selection: Any) -> Sequence[Mapping[str, Any]]:
        """Rows that a `Selection` of these fields picks, oldest first."""
        return await self._inspection.find(Selection(place=self._kind, **selection), limit=limit)

    async def change(
        self,
        verb: Verb,
        *,
        actor: str,
        reason: str = "",
        rate: float | None = None,
        limit: int | None = None,
        payload: bytes | None = None,
        dry_run: bool = False,
        **selection: Any,
    ) -> int:
        """`Inspection.change` of this place."""
        return await self._inspection.change(
            verb,
            Selection(place=self._kind, **selection),
            actor=actor,
            reason=reason,
            rate=rate,
            limit=limit,
            payload=payload,
            dry_run=dry_run,
        )


def act_of(acts: Mapping[tuple[str, str], T], verb: Verb, what: Selection) -> T:
    """What a storage does for a verb at a place.

    Args:
        acts: all it does, by place and verb.
        verb: that is asked for.
        what: names the place.

    Raises:
        ConfigurationError: EB8001, the verb does not go with the place.
    """
    act = acts.get((what.place, verb))
    if act is None:
        fitting = ", ".join(sorted(name for place, name in acts if place == what.place))
        raise unusable(f"{verb} does not go with {what.place}", f"use one of: {fitting or 'none'}")
    return act


def paused_name(what: Selection) -> str:
    """The lease that says so; its last slash keeps one name from being the prefix of another.

    Raises:
        ConfigurationError: EB8003, parked without a group.
    """
    if what.place == "outbox":
        return "paused/outbox/"
    if what.group is None:
        raise ConfigurationError(
            "EB8003",
            "no group is selected",
            where="pause or resume of parked messages",
            why="a group or a projection is paused by its name",
            next='name it: group="billing", or group="projection:orders"',
        )
    kind, separator, name = what.group.partition(":")
    if separator and kind == "projection":
        return f"paused/projection/{name}/"
    return f"paused/group/{what.group}/"


def payload_of(request: Request) -> bytes:
    """What an edit puts in the place of one message's payload.

    Raises:
        ConfigurationError: EB8001, there is none, or it is not exactly one message.
    """
    if len(request.what.ids) != 1 or request.payload is None:
        raise unusable("edit takes one id and its new payload", "give exactly one id")
    return request.payload


def only_one(letters: Sequence[T], what: Selection) -> T:
    """The one dead letter of an id.

    Raises:
        ConfigurationError: EB8004, there is none; EB8001, several groups have it.
    """
    if not letters:
        raise _not_there(what)
    if len(letters) > 1:
        raise unusable("several groups have this dead letter", "name the group as well")
    return letters[0]


def no_place(what: Selection) -> ConfigurationError:
    """EB8001: the storage has no such rows."""
    return unusable(f"{what.place!r} is no place of this storage", "choose outbox or parked")


def unusable(what: str, next: str) -> ConfigurationError:
    """EB8001: a question that a storage cannot answer."""
    return ConfigurationError(
        "EB8001", what, where="a selection of rows", why="it would select nothing", next=next
    )


def _not_there(what: Selection) -> ConfigurationError:
    return ConfigurationError(
        "EB8004",
        "the message is no dead letter here",
        where=f"id {next(iter(what.ids))}",
        why="it was redriven, discarded or never dead, or the group is another one",
        next="eventbus dead-letter list",
    )
