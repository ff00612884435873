"""Calls of the storage per 1,000 sagas of three steps: batches are what they cost, not sagas."""

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from eventbus import Command, Context, Event, EventBus, Group, Reply, handles
from eventbus.saga import Saga, starts_on, step
from eventbus.sqlite import SqliteStorage
from eventbus.sqlite.session import Session

SAGAS = 200
BOUNDS: dict[str, int] = json.loads(
    Path(__file__).with_name("counters.json").read_text(encoding="utf-8")
)["sagas"]


class Ordered(Event, type="counted.ordered", key="order"):
    order: str


class Done(Reply, type="counted.done"): ...


class Do(Command[Done], type="counted.do", key="order"):
    order: str


class State(BaseModel):
    order: str


class Three(Saga[State], name="counted", step_timeout=timedelta(minutes=5)):
    @starts_on(Ordered)
    def begin(self, event: Ordered) -> State:
        return State(order=event.order)

    @step(no_undo="counted without")
    def first(self, s: State) -> Do:
        return Do(order=s.order)

    @step(no_undo="counted without")
    def second(self, s: State) -> Do:
        return Do(order=s.order)

    @step(no_undo="counted without")
    def third(self, s: State) -> Do:
        return Do(order=s.order)


@handles(Do, group=Group("doers", lanes=2))
async def do(command: Do, ctx: Context) -> Done:
    return Done()


async def test_a_saga_costs_no_more_calls_of_the_storage(
    monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    counts: Counter[str] = Counter()
    run = Session.run

    async def counted(self: Session, name: str, *args: Any) -> Any:
        counts[name] += 1
        return await run(self, name, *args)

    monkeypatch.setattr(Session, "run", counted)
    async with EventBus("memory://", storage=SqliteStorage(), handlers=[Three, do]) as bus:
        await bus.until_idle()
        counts.clear()
        async with bus.transaction() as tx:
            for number in range(SAGAS):
                await tx.publish(Ordered(order=str(number)))
        await bus.until_idle(at_most=timedelta(seconds=60))
        found = {name: count * 1000 // SAGAS for name, count in counts.items()}
        record_property("counters", found)
        (kind,) = {(one.status, one.version) for one in await bus.sagas.list()}
    assert kind == ("completed", 4)
    assert {name: found[name] for name in BOUNDS if found[name] > BOUNDS[name]} == {}, found
