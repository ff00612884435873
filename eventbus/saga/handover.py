"""An input of a saga whose version is not here: it is kept, and a worker that has it takes it over.

Parking would leave it to the one process that redelivers for the group, which may lack the version
too. A timer is looked for by every worker, but only by those that have the version of its saga.
"""

from collections.abc import Sequence
from datetime import timedelta

import orjson

from eventbus.message import Message
from eventbus.saga.draft import FINAL
from eventbus.storage.sagas import (
    HELD,
    Arm,
    Correlation,
    JournalEntry,
    SagaChange,
    SagaRecord,
    Stashed,
)

HANDED = "handed-over"  # the timer, and what the journal says of the input
BURIED = "buried:"  # the timer, before the id of a dead letter


class Handover:
    """One locked saga; what is handed over is written beside the transitions of others."""

    def __init__(self, record: SagaRecord) -> None:
        self.stashed: list[Stashed] = []
        self.record: SagaRecord = record
        self._inputs: list[str] = []
        self._timers: dict[str, None] = {}
        self._why = f"version {record.definition} is not at this worker"

    @property
    def saga(self) -> str:
        """Its type."""
        return self.record.saga

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._inputs)

    @property
    def has_ended(self) -> bool:
        """Then nothing is kept: what comes is late, whatever it is."""
        return self.record.status in FINAL

    def take(self, message: Message, also: Sequence[Message] = ()) -> None:
        """Keep a message, or what waited for the keys that it names, in this order."""
        self._inputs.append(message.id)
        if not self.has_ended:
            self._timers[HANDED] = None
            key = Correlation(self.record.saga, HELD, str(self.record.saga_id))
            kept = also or [message]
            self.stashed += [Stashed(key=key, message=each, ttl=None) for each in kept]

    def tell_dead(self, message_id: str) -> None:
        """A message for it is a dead letter: whoever has the version makes it stuck."""
        self._inputs.append(message_id)
        if not self.has_ended:
            self._timers[BURIED + message_id] = None

    def change(self, *, worker: str) -> SagaChange:
        """The saga as it stands, an entry for each input, and the timer that calls for it."""
        was = self.record
        version = was.version + len(self._inputs)
        return SagaChange(
            saga_id=was.saga_id,
            was=was.version,
            version=version,
            definition=was.definition,
            digest=was.digest,
            status=was.status,
            paused=was.paused,
            intent=was.intent,
            state_name=was.state_name,
            data=was.data,
            data_version=was.data_version,
            plan=was.plan,
            error=was.error,
            arm=tuple(Arm(name, version, timedelta()) for name in self._timers),
            journal=tuple(
                self._entry(number, input_id, worker)
                for number, input_id in enumerate(self._inputs, was.version + 1)
            ),
        )

    def _entry(self, version: int, input_id: str, worker: str) -> JournalEntry:
        detail = {
            "now": self.record.now.isoformat(),
            "input": {"reason": self._why},
            "ignored": "late" if self.has_ended else HANDED,
        }
        return JournalEntry(
            version=version,
            input_kind=HANDED,
            input_id=input_id,
            from_status=self.record.status,
            to_status=self.record.status,
            detail=orjson.dumps(detail),
            actor=None,
            worker=worker,
        )
