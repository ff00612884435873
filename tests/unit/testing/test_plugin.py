"""The plugin in a project of its own: strict and auto mode, options, what fails a test."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

APP = """
from eventbus import Event, EventBus, Group, RetryPolicy, subscribe

class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str

@subscribe(OrderPlaced, group=Group("billing", retry=RetryPolicy(in_place=0)))
async def bill(event: OrderPlaced) -> None:
    if event.order_id == "bad":
        raise ValueError("no such order")

bus = EventBus("memory://", handlers=[bill], service="shop")
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(app=APP)
    pytester.makepyprojecttoml("[tool.eventbus]\napp = 'app:bus'\n")
    return pytester


def run(project: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return project.runpytest_subprocess("-p", "no:randomly", *arguments)


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_the_bus_runs_in_both_modes_of_pytest_asyncio(project: pytest.Pytester, mode: str) -> None:
    project.makepyfile("""
import pytest
from app import OrderPlaced

@pytest.mark.asyncio
async def test_it(bus, published):
    await bus.publish(OrderPlaced(order_id="A-1"))
    await bus.until_idle()
    assert published.one(OrderPlaced).order_id == "A-1"
""")
    run(project, f"--asyncio-mode={mode}").assert_outcomes(passed=1)


def test_a_failed_handler_fails_the_test_unless_failures_are_collected(
    project: pytest.Pytester,
) -> None:
    project.makepyfile("""
import pytest
from app import OrderPlaced

async def test_it(bus):
    await bus.publish(OrderPlaced(order_id="bad"))

@pytest.mark.eventbus(failures="collect")
async def test_collected(bus):
    await bus.publish(OrderPlaced(order_id="bad"))
    await bus.until_idle()
    assert len(await bus.parked.list()) == 1
""")
    result = run(project, "--asyncio-mode=auto")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*billing: shop.order-placed bad failed after 1 att*ValueError*"])


def test_the_seed_of_the_faults_is_printed_and_replayed(project: pytest.Pytester) -> None:
    project.makepyfile("""
from app import OrderPlaced
from eventbus.testing.faults import Duplicate, LoseReply

async def test_it(bus, faults):
    faults.sprinkle(rate=0.5, kinds=[Duplicate, LoseReply])
    await bus.publish(OrderPlaced(order_id="A-1"))
    assert False, f"seed is {faults.seed}"
""")
    result = run(project, "--asyncio-mode=auto", "--eventbus-seed=4711")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*--eventbus-seed=4711*"])


def test_without_a_bus_the_error_says_where_to_name_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(eventbus_app): ...")
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*--eventbus-app=shop.app:bus*"])
    result = run(pytester, "--eventbus-app=nowhere:bus")
    result.stdout.fnmatch_lines(["*no bus under test at 'nowhere:bus'*"])


def test_each_test_has_a_sqlite_file_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
from eventbus.storage import open_storage

def test_it(sqlite_url):
    assert open_storage(sqlite_url, "shop").capabilities.durable
""")
    run(pytester).assert_outcomes(passed=1)


def test_importing_the_plugin_imports_the_standard_library_and_pytest_only(
    tmp_path: Path,
) -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import eventbus.testing.plugin; "
        "print(*sorted(set(sys.modules) - before))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    roots = {name.partition(".")[0] for name in ran.stdout.split()}
    assert roots - sys.stdlib_module_names == {"eventbus"}
    ours = {name for name in ran.stdout.split() if name.startswith("eventbus")}
    assert ours == {"eventbus", "eventbus.testing", "eventbus.testing.plugin"}


LIVE = """
async def test_it(live_bus): ...
"""


def test_a_live_bus_is_a_test_for_each_pair_of_the_options(project: pytest.Pytester) -> None:
    project.makepyfile(LIVE)
    both = run(project, "--asyncio-mode=auto", "--collect-only", "-q")
    both.stdout.fnmatch_lines(["*test_it?kafka-postgres?", "*test_it?rabbit-postgres?"])
    one = run(
        project,
        *("--asyncio-mode=auto", "--collect-only", "-q"),
        *("--eventbus-transport=rabbit", "--eventbus-storage=sqlite"),
    )
    one.stdout.fnmatch_lines(["*test_it?rabbit-sqlite?", "*1 test collected*"])
    none = run(project, "--asyncio-mode=auto", "--collect-only", "-q", "-m", "not kafka")
    none.stdout.fnmatch_lines(["*1/2 tests collected*"])


def test_a_live_bus_of_the_project_wins_and_is_one_test(project: pytest.Pytester) -> None:
    project.makepyfile("""
import pytest

@pytest.fixture
def live_bus():
    return "mine"

async def test_it(live_bus):
    assert live_bus == "mine"
""")
    run(project, "--asyncio-mode=auto").assert_outcomes(passed=1)


def test_a_transport_that_nobody_knows_is_wrong_usage(project: pytest.Pytester) -> None:
    project.makepyfile(LIVE)
    result = run(project, "--eventbus-transport=nats")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--eventbus-transport=nats: there is kafka, rabbit*"])


SAGAS = """
from datetime import timedelta
from pydantic import BaseModel
from eventbus import Command, Event, EventBus, Reply
from eventbus.saga import Saga, Undone, starts_on, step, wait_step

class Placed(Event, type="shop.placed", key="order"):
    order: str

class Reserved(Reply, type="stock.reserved"):
    place: str

class Reserve(Command[Reserved], type="stock.reserve", key="order"):
    order: str

class State(BaseModel):
    order: str

class Order(Saga[State], name="order", step_timeout=timedelta(minutes=1)):
    @starts_on(Placed)
    def begin(self, event: Placed) -> State:
        return State(order=event.order)

    @step(no_undo="a hold runs out by itself")
    def reserve(self, s: State) -> Reserve:
        return Reserve(order=s.order)

class Patient(Saga[State], name="patient"):
    @starts_on(Placed)
    def begin(self, event: Placed) -> State:
        return State(order=event.order)

    @wait_step(Placed)
    def again(self, s: State, event: Placed) -> None: ...

bus = EventBus("memory://", storage="sqlite://", handlers=[Order, Patient], service="shop")
"""


def test_each_saga_of_the_bus_is_a_test_that_fails_with_what_the_linter_finds(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(flow=SAGAS, test_nothing="def test_it(): ...")
    result = run(pytester, "--eventbus-lint", "--eventbus-app=flow:bus")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["SAGA011 again waits without a limit", "*saga-lint?patient-v1?*"])
    run(pytester, "--eventbus-app=flow:bus").assert_outcomes(passed=1)
