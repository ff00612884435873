"""A saga whose row cannot be read: it is stuck alone, and keeps what comes until it was mended."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from eventbus.saga.handover import Handover
from eventbus.saga.instance import Stuck
from eventbus.storage.sagas import Arm, Fired, SagaChange, SagaRecord

log: logging.Logger = logging.getLogger("eventbus.saga")

AGAIN = timedelta(minutes=5)  # until its timers are tried again


class Illegible(Handover):
    """Its plan or its error is not what was written: nothing is decided from it, or overwritten."""

    def __init__(self, record: SagaRecord, error: Exception) -> None:
        super().__init__(record)
        self._why = str(error).partition("\n")[0]
        self._fired: Sequence[Fired] = ()

    def ring(self) -> None:
        """Its timers are due: they will be again."""
        self._fired = self.record.fired
        self._inputs += [f"timer:{timer.name}" for timer in self._fired]

    def change(self, *, worker: str) -> SagaChange:
        """Stuck, so that a person is told; what made it stuck before stays."""
        change = super().change(worker=worker)
        if self.has_ended:
            return change
        log.error("saga %s is stuck: %s", self.record.saga_id, self._why)
        arm = tuple(Arm(timer.name, change.version, AGAIN) for timer in self._fired)
        if self.record.status == "stuck":
            return replace(change, arm=arm)
        stuck = Stuck(reason="input-failed", came_from=self.record.status, what=self._why)
        journal = [replace(entry, to_status="stuck") for entry in change.journal]
        return replace(change, status="stuck", error=stuck.encoded(), arm=arm, journal=journal)
