"""The keys of personal data: one per subject, wrapped by a key that no database sees (E4)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import orjson

from eventbus.sealing import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectKey:
    """A row."""

    subject: Subject
    id: bytes  # 16
    wrapped: bytes | None = field(repr=False)  # None: shredded
    kept: bool = True  # False: this transaction made it, and may yet be rolled back


@dataclass(frozen=True, slots=True, kw_only=True)
class Shredded:
    """What became of a key."""

    subject: Subject
    at: datetime  # the first time
    new: bool  # False: it was forgotten before
    snapshots: int  # that went with it


class SubjectKeys(Protocol):
    """Whoever has no row has no key yet; a shredded row stays for ever, and no key follows it."""

    async def find(self, ids: Collection[bytes]) -> Sequence[SubjectKey]:
        """Those of these ids, in any order."""
        ...

    async def standing(self, subjects: Collection[Subject]) -> Sequence[SubjectKey]:
        """Those of these subjects, in any order."""
        ...

    async def any(self) -> SubjectKey | None:
        """One that is not shredded, to try a master key on; None: there is none."""
        ...

    async def listed(
        self, *, after: SubjectKey | None = None, limit: int = 1000
    ) -> Sequence[SubjectKey]:
        """Those that are not shredded, by tenant and subject, after this one."""
        ...

    async def add(self, keys: Sequence[SubjectKey]) -> Sequence[SubjectKey]:
        """Keep those whose subject has none; what stands now, of all of them.

        Waits for another transaction that adds one of the subjects.
        """
        ...

    async def rewrap(
        self, keys: Sequence[tuple[SubjectKey, bytes]], *, actor: str, reason: str = ""
    ) -> int:
        """Replace the wrapped form of keys, each told as it was read; with one audit row.

        One that was shredded or rewrapped meanwhile stays as it is.

        Returns:
            How many were replaced; of none there is no audit row.
        """
        ...

    async def shred(self, subject: Subject, *, actor: str, reason: str = "") -> Shredded:
        """Destroy the key for good, and the snapshots that it was part of; with its audit row.

        A subject without a key gets a shredded one: it stays forgotten. Shredded again, nothing
        changes, and no audit row is written.
        """
        ...

    async def shredded(
        self, *, after: Subject | None = None, limit: int = 1000
    ) -> Sequence[Shredded]:
        """Who is forgotten, by tenant and name, after this one."""
        ...


def rewrapped_through(keys: Sequence[tuple[SubjectKey, bytes]]) -> str:
    """What the audit row of a rewrap selects: the first subject of its keys, and the last."""
    (first, _), (last, _) = keys[0], keys[-1]
    told = {"from": first.subject._asdict(), "through": last.subject._asdict()}
    return orjson.dumps(told).decode()
