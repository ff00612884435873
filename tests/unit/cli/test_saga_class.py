"""saga lint, explore, diagram: what is said of saga classes, and of one saga laid over."""

import asyncio
from pathlib import Path
from xml.etree import ElementTree

import pytest

from .conftest import Run

JSON = ("-o", "json")
APP = """
from datetime import timedelta
from pydantic import BaseModel
from eventbus import Command, Context, Event, EventBus, Rejection, Reply, handles
from eventbus.saga import Saga, Undone, starts_on, step, wait_step

MINUTE = timedelta(minutes=1)

class Placed(Event, type="shop.placed", key="order"):
    order: str

class Paid(Event, type="shop.paid", key="order"):
    order: str

class Reserved(Reply, type="stock.reserved"):
    place: str

class Gone(Rejection, type="stock.gone"):
    sku: str

class Reserve(Command[Reserved], type="stock.reserve", key="order", rejects=(Gone,)):
    order: str

class Release(Command[Undone], type="stock.release", key="order"):
    order: str

class State(BaseModel):
    order: str

class Order(Saga[State], name="order", step_timeout=MINUTE):
    @starts_on(Placed)
    def begin(self, event: Placed) -> State:
        return State(order=event.order)

    @step
    def reserve(self, s: State) -> Reserve:
        return Reserve(order=s.order)

    @reserve.undo
    def release(self, s: State, reply: Reserved | None) -> Release:
        return Release(order=s.order)

class Careless(Saga[State], name="careless"):
    @starts_on(Placed)
    def begin(self, event: Placed) -> State:
        return State(order=event.order)

    @step(no_undo="a lie", timeout=MINUTE)
    def reserve(self, s: State) -> Reserve:
        if s.order == "x":
            raise ValueError("not x")
        return Reserve(order=s.order)

    @wait_step(Paid)
    def paid(self, s: State, event: Paid) -> None: ...

@handles(Reserve, group="stock")
async def reserve(command: Reserve, ctx: Context) -> Reserved:
    return Reserved(place="1")

bus = EventBus("memory://", storage="sqlite:///shop.db", service="shop", handlers=[Order, reserve])
careless = EventBus("memory://", storage="sqlite://", service="shop", handlers=[Careless])
"""


@pytest.fixture(autouse=True)
def app(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "flow.py").write_text(APP, encoding="utf-8")
    monkeypatch.setenv("EVENTBUS_APP", "flow:bus")


def test_lint_tells_warnings_and_fails(run: Run) -> None:
    ran = run("saga", "lint", *JSON).fits("saga-lint")
    assert ran.code == 1
    assert [(one["code"], one["what"]) for one in ran.result["findings"]] == [
        ("SAGA020", "no group known here handles stock.release")
    ]
    lines = run("saga", "lint", "--app", "flow:careless").out.splitlines()
    assert lines[0] == "warn    SAGA011  careless: paid waits without a limit"
    assert lines[-1] == "1 saga, 2 findings"


def test_lint_finds_what_changed_since_open_sagas_began(run: Run, project: Path) -> None:
    assert run("saga", "diagram", "order").code == 0  # imports the app
    start_one(wait=False)
    told = run("saga", "in-flight", "--storage", "sqlite:///shop.db", *JSON)
    (row,) = told.fits("saga-in-flight").result
    assert [one["name"] for one in row["graph"]["steps"]] == ["reserve"]
    file = project / "open.json"
    file.write_text(told.out, encoding="utf-8")
    asked = ("saga", "lint", "--in-flight", str(file), *JSON)
    assert [one["code"] for one in run(*asked).result["findings"]] == ["SAGA020"]
    file.write_text(told.out.replace(row["digest"], "00"), encoding="utf-8")
    found = run(*asked).fits("saga-lint").result["findings"]
    assert [one["code"] for one in found] == ["SAGA017", "SAGA020"]


def test_the_guarantees_have_what_the_linter_says_and_strict_refuses_its_warnings(
    run: Run,
) -> None:
    told = run("guarantees", "flow:bus", "--strict", *JSON)
    assert told.code == 0
    (said,) = [one for one in told.result["findings"] if one["code"] == "SAGA020"]
    assert (said["level"], said["what"]) == (
        "say",
        "saga 'order': no group known here handles stock.release",
    )
    told = run("guarantees", "flow:careless", "--strict", *JSON)
    assert told.code == 1
    assert "SAGA011" in [one["code"] for one in told.result["findings"]]


def test_explore_says_how_much_it_saw(run: Run) -> None:
    ran = run("saga", "explore", "order", *JSON).fits("saga-explore")
    assert (ran.code, ran.result["violation"], ran.result["complete"]) == (0, None, True)
    assert ran.result["statuses"] == ["compensated", "compensating", "completed", "running"]
    told = run("saga", "explore", "order", "--losses", "1").out
    assert told.startswith("order: nothing was found in ")


def test_explore_shows_the_shortest_counterexample_and_fails(run: Run) -> None:
    ran = run("saga", "explore", "careless", "--app", "flow:careless", *JSON).fits("saga-explore")
    assert ran.code == 1
    assert ran.result["violation"]["moves"] == ["Placed starts it"]
    told = run("saga", "explore", "careless", "--app", "flow:careless").out.splitlines()
    assert "it does not hold that no method fails (EB7002" in told[0]
    assert told[1] == "  1 Placed starts it"
    assert any(line.startswith("def test_careless_no_method_fails") for line in told)


def test_an_exploration_that_was_cut_off_fails(run: Run) -> None:
    ran = run("saga", "explore", "order", "--max-states", "5")
    assert ran.code == 1
    assert "cut off before all was seen in 7 states" in ran.out


def test_a_class_is_drawn_in_three_forms(run: Run) -> None:
    ran = run("saga", "diagram", "order", *JSON).fits("saga-diagram")
    assert ran.result["text"].startswith("flowchart LR\n")
    assert run("saga", "diagram", "order", "--format", "dot").out.startswith('digraph "order v1" {')
    picture = run("saga", "diagram", "order", "--format", "svg").out
    assert ElementTree.fromstring(picture).tag.endswith("svg")


def start_one(*, wait: bool = True) -> None:
    from flow import Placed, bus  # type: ignore[import-not-found]  # written by the fixture

    async def main() -> None:
        if not wait:
            await bus.upgrade()
            async with bus.client(), bus.transaction() as tx:
                await tx.storage.sagas.register([each.row for each in (await bus.describe()).sagas])
            async with bus.client():
                await bus.sagas.start(Placed(order="A-1"))
            return
        async with bus:
            await bus.publish(Placed(order="A-1"))
            await bus.until_idle()

    asyncio.run(main())


def test_one_saga_is_laid_over_by_its_key_or_its_id(run: Run, project: Path) -> None:
    assert run("saga", "diagram", "order").code == 0  # imports the app
    start_one()
    by_key = run("saga", "diagram", "order", "--id", "A-1").out
    assert "  class n_reserve succeeded" in by_key
    assert "  class n_completed succeeded" in by_key


@pytest.mark.parametrize(
    ("args", "what", "why"),
    [
        (("explore", "ordr"), "the app has no saga 'ordr'", "did you mean order?"),
        (("diagram", "nothing"), "the app has no saga 'nothing'", "it has order"),
        (
            ("diagram", "order", "--id", "B-9"),
            "there is no saga 'order' with the id or key 'B-9'",
            "it was never started, or swept after its end",
        ),
        (
            ("diagram", "order", "--id", "01990000-0000-7000-8000-000000000001"),
            "there is no saga 'order' with the id or key '01990000",
            "it was never started",
        ),
    ],
)
def test_what_is_not_there_is_told(run: Run, args: tuple[str, ...], what: str, why: str) -> None:
    ran = run("saga", *args)
    assert ran.code == 2
    assert f"EB1233 {what}" in ran.err
    assert why in ran.err
