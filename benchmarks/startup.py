"""START: how long a cold process takes until it is ours; the best of at least twelve, paired."""

import subprocess
import sys
from collections.abc import Callable

from benchmarks.measure import Clock
from benchmarks.rounds import Bar, Case, Figures, Goal

OTHERS = (
    "import asyncio, orjson, pydantic\n"
    "class Order(pydantic.BaseModel):\n    order_id: str\n    cents: int\n"
)
OURS = (
    "from eventbus import Event, EventBus, subscribe\n"
    "import asyncio\n"
    "class Order(Event, type='shop.order', key='order_id'):\n    order_id: str\n    cents: int\n"
)
ROUNDS = 12


def bar() -> Bar:
    """Against an interpreter that does nothing, and one that imports what everybody needs."""
    goal = Goal(figure="ms", at_most=150)
    return Bar(
        name="START",
        what="cold process, best of 12; above_ms: over asyncio, orjson and one pydantic model",
        ratio_of="ms",
        cases=[
            _case("python -c pass", "-c", "pass"),
            _case("asyncio, orjson, one pydantic model", "-c", OTHERS),
            _case("import eventbus", "-c", "import eventbus", goal=goal),
            Case(
                bar="START",
                name="from eventbus import Event, EventBus, subscribe; one event",
                n=1,
                run=_above,
                best="min",
                fewest=ROUNDS,
                patience_seconds=0,
                goal=Goal(figure="above_ms", at_most=30),
            ),
            _case("eventbus --help", "-m", "eventbus", "--help", goal=goal),
        ],
    )


def _case(name: str, *arguments: str, goal: Goal | None = None) -> Case:
    return Case(
        bar="START",
        name=name,
        n=1,
        run=_process(*arguments),
        goal=goal,
        best="min",
        fewest=ROUNDS,
        patience_seconds=0,
    )


def _process(*arguments: str) -> Callable[[int], Figures]:
    def run(n: int) -> Figures:
        clock = Clock()
        with clock:
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return {
            "ms": clock.seconds * 1000,
            "cpu_ms": clock.cpu_seconds * 1000,
            "noise": clock.noise,
        }

    return run


def _above(n: int) -> Figures:
    """Both in turn, so that each difference is of neighbours."""
    theirs, ours = _process("-c", OTHERS)(n), _process("-c", OURS)(n)
    return {**ours, "above_ms": ours["ms"] - theirs["ms"]}
