"""A saga as `advance` sees it: the instance, its plan of undos, why it is stuck."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from functools import lru_cache
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

import orjson

from eventbus.errors import SagaError
from eventbus.storage.sagas import Phase, SagaRecord, Status, StepRow
from eventbus.values import make_quickly

Steps = Sequence[StepRow]
Reason = Literal[
    "unknown", "undo-failed", "attempts", "input-failed", "unexpected", "contradiction"
]


def text_of(moment: datetime) -> str:
    """In ISO 8601: the sagas of a batch have the same `now`, and say it several times."""
    return _text(moment, moment.tzinfo)


@lru_cache(64)
def _text(moment: datetime, zone: tzinfo | None) -> str:
    return moment.isoformat()


@dataclass(frozen=True, slots=True, kw_only=True)
class Undoing:
    """One line of a plan: the step, by its place in the log, and what undoes it."""

    seq: int
    step: str
    undo: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is undone, in this order; it never changes once it was made."""

    undos: tuple[Undoing, ...]

    def encoded(self) -> bytes:
        """As it is stored: with a digest, so that a plan that was changed is found out."""
        lines = [[each.seq, each.step, each.undo] for each in self.undos]
        return orjson.dumps({"undos": lines, "digest": self.digest})

    @property
    def digest(self) -> str:
        """Of places, steps and undos, in order."""
        text = "\x1e".join(f"{each.seq}\x1f{each.step}\x1f{each.undo}" for each in self.undos)
        return sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def decoded(cls, stored: bytes) -> "Plan":
        """What `encoded` wrote.

        Raises:
            ValueError: it is not what was written.
        """
        found = orjson.loads(stored)
        plan = cls(tuple(Undoing(seq=s, step=n, undo=u) for s, n, u in found["undos"]))
        if plan.digest != found["digest"]:
            raise ValueError("the plan of undos is not the one that was made")
        return plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """Why a saga needs a person, and the status to which it returns."""

    reason: Reason
    came_from: Status
    seq: int | None = None  # the step it is stuck on
    phase: Phase = "forward"
    what: str = ""

    def encoded(self) -> bytes:
        """As it is stored in the row of the saga."""
        return orjson.dumps(
            {
                "reason": self.reason,
                "from": self.came_from,
                "seq": self.seq,
                "phase": self.phase,
                "what": self.what,
            }
        )

    @classmethod
    def decoded(cls, stored: bytes) -> "Stuck":
        """What `encoded` wrote."""
        found: dict[str, Any] = orjson.loads(stored)
        return cls(
            reason=found["reason"],
            came_from=found["from"],
            seq=found["seq"],
            phase=found["phase"],
            what=found["what"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One saga without its steps."""

    saga_id: UUID
    key: str
    status: Status = "running"
    paused: bool = False
    intent: str | None = None  # why it shall turn back as soon as that is safe
    state_name: str | None = None  # of a process
    data: bytes = b""  # the state as JSON; empty before the first transition
    data_version: int
    plan: Plan | None = None
    error: Stuck | None = None
    version: int = 0

    @classmethod
    def of(cls, record: SagaRecord) -> "Instance":
        """The instance as it was locked.

        Raises:
            SagaError: EB7069, its plan or its error is not what was written.
        """
        try:
            plan = None if record.plan is None else Plan.decoded(record.plan)
            error = None if record.error is None else Stuck.decoded(record.error)
        except (ValueError, KeyError, TypeError) as broken:
            raise _illegible(record, broken) from broken
        return cls(
            saga_id=record.saga_id,
            key=record.key,
            status=record.status,
            paused=record.paused,
            intent=record.intent,
            state_name=record.state_name,
            data=record.data,
            data_version=record.data_version,
            plan=plan,
            error=error,
            version=record.version,
        )


make_quickly(Instance)


def _illegible(record: SagaRecord, why: Exception) -> SagaError:
    return SagaError(
        "EB7069",
        f"what stands of saga {record.saga} {record.key} cannot be read: {why}",
        where=f"saga {record.saga_id}, version {record.version}",
        why="its plan or its error was changed by another hand, or the disk lied",
        next=f"mend its row, then: eventbus saga retry {record.saga_id}",
    )
