"""What operators may look at and put right: the functions of the command line and the dashboard."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from eventbus.errors import Finding
from eventbus.storage import Storage

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


Verb = Literal[
    "retry", "release", "bury", "redrive", "discard", "restore", "edit", "pause", "resume"
]


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
