"""The sagas that are raced for, and what is said to them."""

import asyncio
from datetime import timedelta
from random import Random
from uuid import UUID

from pydantic import BaseModel

from eventbus import Command, Event, Reply, Undone
from eventbus.message import Message
from eventbus.saga import (
    Actions,
    CallContext,
    Complete,
    Process,
    Resend,
    Saga,
    State,
    call_step,
    initial,
    on,
    starts_on,
    step,
    wait_step,
)
from eventbus.saga.definition import effect_of
from eventbus.service import pause
from tests.faults.saga_races.worker import made

HOUR = timedelta(hours=1)
LONGEST_CALL_SECONDS = 0.3
_dice = Random(5)
asked: list[tuple[UUID, int]] = []  # of the outside: each attempt of each effect


class Begun(Event, type="race.begun", key="race"):
    race: str


class Seen(Event, type="race.seen", key="race"):
    race: str


class Ticked(Event, type="race.ticked", key="race"):
    race: str
    last: bool = False


class Done(Reply, type="race.done"): ...


class Act(Command[Done], type="race.act", key="race"):
    race: str


class TakeBack(Command[Undone], type="race.take-back", key="race"):
    race: str


class Course(BaseModel):
    race: str
    ticks: int = 0


class Timed(Saga[Course], name="timed", step_timeout=HOUR):
    """Its answer and its time-out come at once."""

    @starts_on(Begun)
    def begin(self, event: Begun) -> Course:
        return Course(race=event.race)

    @step
    def act(self, s: Course) -> Act:
        return Act(race=s.race)

    @act.undo
    def take_back(self, s: Course, reply: Done | None) -> TakeBack:
        return TakeBack(race=s.race)


class Awaiting(Saga[Course], name="awaiting"):
    """Its start and the event that it waits for come at once."""

    @starts_on(Begun)
    def begin(self, event: Begun) -> Course:
        return Course(race=event.race)

    @wait_step(Seen, timeout=HOUR)
    def seen(self, s: Course, event: Seen) -> None:
        s.ticks += 1


class Ticking(Process[Course], name="ticking"):
    """All workers have something for it."""

    counting = State()

    @starts_on(Begun)
    def begin(self, event: Begun) -> Course:
        return Course(race=event.race)

    @on(Begun, when=initial, to=counting)
    def begun(self, s: Course, event: Begun) -> Actions:
        yield from ()

    @on(Ticked, when=counting)
    def ticked(self, s: Course, event: Ticked) -> Actions:
        s.ticks += 1
        if event.last:
            yield Complete()


class Calling(Saga[Course], name="calling"):
    """Its call lasts longer than its lease, now and then."""

    @starts_on(Begun)
    def begin(self, event: Begun) -> Course:
        return Course(race=event.race)

    @call_step(no_undo="it is only asked", timeout=HOUR, resend=Resend(attempts=1_000))
    async def ask(self, s: Course, call: CallContext) -> Done:
        asked.append((call.effect_id, call.attempt))
        await pause(asyncio.Event(), _dice.uniform(0, LONGEST_CALL_SECONDS))
        return Done()


def answer(saga_id: UUID, phase: str = "forward") -> Message:
    """Of the participant, to the step of a `Timed`."""
    what, outcome = (Done(), "succeeded") if phase == "forward" else (Undone(), "undone")
    effect_id = effect_of(saga_id, "act", 0, phase)
    return made(what, sagaid=str(saga_id), sagaoutcome=outcome, sagaeffect=str(effect_id))
