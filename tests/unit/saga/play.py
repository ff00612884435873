"""A saga played by hand: each input meets what the decision before left."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from eventbus import Command, Event, Reply
from eventbus.saga.advance import advance
from eventbus.saga.course import after, steps_after
from eventbus.saga.decision import Decision
from eventbus.saga.definition import Definition, definition_of, effect_of
from eventbus.saga.input import (
    CallDone,
    Input,
    LocalDone,
    Outcome,
    Received,
    Replied,
    Started,
    TimerFired,
    Verb,
)
from eventbus.saga.instance import Instance
from eventbus.storage.sagas import JournalEntry, StepRow
from tests.unit.saga.shop import (
    CardCharged,
    CardDeclined,
    MailSent,
    OrderPlaced,
    OutOfStock,
    ShipmentCreated,
    StockReserved,
)

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SAGA_ID = UUID("01990000-0000-7000-8000-000000000001")
ANSWERS: dict[str, Reply] = {
    "reserve": StockReserved(reservation_id="R-1"),
    "charge": CardCharged(charge_id="C-1"),
    "ship": ShipmentCreated(shipment_id="S-1"),
    "mail": MailSent(),
    "fetch": StockReserved(reservation_id="R-2"),
}
REFUSALS: dict[str, Reply] = {
    "reserve": OutOfStock(sku="x"),
    "charge": CardDeclined(reason="limit"),
}


class Play:
    def __init__(self, saga: type[Any] | Definition, *, begin: bool = True) -> None:
        self.definition = saga if isinstance(saga, Definition) else definition_of(saga)
        self.saga = Instance(saga_id=SAGA_ID, key="A-1", data_version=self.definition.version)
        self.steps: Sequence[StepRow] = ()
        self.journal: list[JournalEntry] = []
        self.timers: dict[str, timedelta] = {}
        if begin:
            self.feed(Started(OrderPlaced(order_id="A-1"), "m-1"))

    def feed(self, input: Input) -> Decision:
        decision = advance(self.definition, self.saga, self.steps, input, NOW)
        self.saga = after(self.saga, decision)
        self.steps = steps_after(self.steps, decision)
        self.journal.append(decision.journal)
        if isinstance(input, TimerFired):
            self.timers.pop(input.name, None)
        for name in decision.disarm:
            self.timers.pop(name, None)
        self.timers.update({arm.name: arm.delay for arm in decision.arm})
        if decision.status in {"completed", "compensated"}:
            self.timers.clear()
        return decision

    def row(self, step: str, phase: str = "forward") -> StepRow:
        return next(r for r in self.steps if r.name == step and r.phase == phase)

    def reply(
        self, step: str, outcome: Outcome = "succeeded", reply: Reply | None = None
    ) -> Decision:
        if reply is None and outcome in {"succeeded", "rejected"}:
            reply = (ANSWERS if outcome == "succeeded" else REFUSALS).get(step)
        return self.feed(Replied(self.row(step).effect_id, outcome, reply))

    def reply_to(self, row: StepRow, reply: Reply) -> Decision:
        return self.feed(Replied(row.effect_id, "succeeded", reply))

    def undo(self, step: str, outcome: Outcome = "undone", reply: Reply | None = None) -> Decision:
        return self.feed(Replied(self.row(step, "undo").effect_id, outcome, reply))

    def local(self, step: str, outcome: Outcome = "succeeded", phase: str = "forward") -> Decision:
        data = self.saga.data if outcome == "succeeded" else None
        return self.feed(LocalDone(self.row(step, phase).effect_id, outcome, data))

    def call(self, step: str, outcome: Outcome = "succeeded", phase: str = "forward") -> Decision:
        reply = ANSWERS[step] if outcome == "succeeded" and phase == "forward" else None
        return self.feed(CallDone(self.row(step, phase).effect_id, 1, outcome, reply, "it said so"))

    def fire(self, name: str) -> Decision:
        assert name in self.timers, f"{name} is not armed, but {self.timers}"
        return self.feed(TimerFired(name))

    def fire_until(self, name: str, status: str) -> int:
        times = 0
        while self.saga.status != status:
            self.fire(name)
            times += 1
        return times

    def event(self, event: Event) -> Decision:
        return self.feed(Received(event, "m-2"))

    def verb(self, name: str, reason: str = "because", **args: object) -> Decision:
        return self.feed(Verb(name, args, "ops", reason))

    def resolve_id(self, step: str) -> UUID:
        return effect_of(SAGA_ID, step, 0, "resolve")

    @property
    def state(self) -> Any:
        return self.definition.state.model_validate_json(self.saga.data)

    def statuses(self) -> dict[str, str]:
        return {
            f"{row.name}{'' if row.phase == 'forward' else '!'}": row.status for row in self.steps
        }


def sent(decision: Decision) -> list[tuple[str, type[Command[Any]]]]:
    return [(each.phase, type(each.command)) for each in decision.commands]
