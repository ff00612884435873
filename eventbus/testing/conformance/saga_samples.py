"""Saga rows for suites: the shortest that are whole."""

from dataclasses import replace
from typing import Any
from uuid import uuid4

from eventbus.message import Message
from eventbus.storage.sagas import (
    CallRequest,
    Correlation,
    JournalEntry,
    Phase,
    SagaChange,
    SagaRecord,
    SagaStart,
    Stashed,
    StepRow,
)
from eventbus.testing.conformance.samples import SOON


def some_start(saga: str, key: str = "A-1") -> SagaStart:
    """A saga that begins."""
    return SagaStart(saga_id=uuid4(), saga=saga, key=key, definition=1, digest=b"d", data=b"{}")


def some_change(record: SagaRecord, **changes: Any) -> SagaChange:
    """The next version of a saga, as it was but for `changes`."""
    version = record.version + 1
    entry = JournalEntry(
        version=version,
        input_kind="event",
        input_id=None,
        from_status=record.status,
        to_status=record.status,
        detail=b"{}",
        actor=None,
        worker="w",
    )
    same = SagaChange(
        saga_id=record.saga_id,
        was=record.version,
        version=version,
        definition=record.definition,
        digest=record.digest,
        status=record.status,
        paused=record.paused,
        intent=record.intent,
        state_name=record.state_name,
        data=record.data,
        data_version=record.data_version,
        plan=record.plan,
        error=record.error,
        journal=[entry],
    )
    return replace(same, **changes)


def some_step(seq: int, phase: Phase = "forward") -> StepRow:
    """A command that was sent."""
    return StepRow(
        seq=seq,
        phase=phase,
        name=f"step-{seq}",
        kind="command",
        effect_id=uuid4(),
        status="dispatched",
    )


def some_call() -> CallRequest:
    """A call that waits for a worker."""
    return CallRequest(effect_id=uuid4(), seq=1, phase="forward", step="quote", input=b"in")


def some_early(key: Correlation, message: Message) -> Stashed:
    """An input that waits for its saga, for `SOON`."""
    return Stashed(key=key, message=message, ttl=SOON)
