"""The pytest plugin; every run of every project that has us installed imports it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from eventbus.bus import EventBus
    from eventbus.testing.faults import FaultPlan
    from eventbus.testing.harness import Clock, Published

pytest_plugins: list[str] = ["eventbus.testing.services.fixtures"]
_MARK = "eventbus"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the bus is, and which faults to replay."""
    group = parser.getgroup("eventbus")
    group.addoption(
        "--eventbus-app",
        metavar="MODULE:NAME",
        help="the EventBus under test; default: app in [tool.eventbus] of pyproject.toml",
    )
    group.addoption(
        "--eventbus-seed",
        type=int,
        metavar="N",
        help="seed of the fixture faults: a failed test prints the one it had",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker; make the asynchronous fixture in the way of the plugin that runs it."""
    config.addinivalue_line(
        "markers",
        f'{_MARK}(failures="collect"): failed handlers are part of this test of `bus`',
    )
    asynchronous = ModuleType("eventbus_asynchronous")  # a holder of fixtures must be a module
    asynchronous.bus = _decorator(config)(name="bus")(_bus)  # type: ignore[attr-defined]  # made here
    config.pluginmanager.register(asynchronous, "eventbus-asynchronous")


def _decorator(config: pytest.Config) -> Callable[..., Any]:
    """pytest-asyncio in strict mode runs its own fixtures only; anyio takes plain ones."""
    if config.pluginmanager.hasplugin("asyncio"):
        import pytest_asyncio  # it is loaded already: this costs nothing

        return pytest_asyncio.fixture
    return pytest.fixture


@pytest.fixture
def eventbus_app(request: pytest.FixtureRequest) -> EventBus:
    """The bus under test, not entered: override it, or say `--eventbus-app` or `[tool.eventbus]`.

    Raises:
        pytest.UsageError: nobody says which it is, or the name leads nowhere.
    """
    from eventbus.testing.harness import locate

    target = request.config.getoption("--eventbus-app") or _configured(request.config.rootpath)
    if not target:
        raise pytest.UsageError(
            "no bus under test: --eventbus-app=shop.app:bus, or app = 'shop.app:bus' under "
            "[tool.eventbus] in pyproject.toml, or a fixture eventbus_app of your own"
        )
    root = str(request.config.rootpath)
    if root not in sys.path:
        sys.path.insert(0, root)
    try:
        return locate(target)
    except (ImportError, AttributeError, TypeError) as error:
        raise pytest.UsageError(f"no bus under test at {target!r}: {error}") from error


def _configured(root: Path) -> str | None:
    import tomllib

    try:
        text = (root / "pyproject.toml").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    app = tomllib.loads(text).get("tool", {}).get("eventbus", {}).get("app")
    return None if app is None else str(app)


@pytest.fixture
def clock() -> Clock:
    """The time of database and broker: it stands still until `await clock.advance(days=3)`."""
    from eventbus.testing.harness import Clock

    return Clock()


@pytest.fixture
def published() -> Published:
    """What reached the broker: `.one(OrderPlaced)`, `.all(…)`, `.none(…)`, `.in_order(…)`."""
    from eventbus.testing.harness import Published

    return Published()


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> FaultPlan:
    """An empty plan around the transport and the storage of `bus`; a failure prints its seed."""
    from eventbus.testing.faults import FaultPlan

    seed = request.config.getoption("--eventbus-seed")
    if seed is None:
        import os

        seed = int.from_bytes(os.urandom(4), "big")
    request.node.stash[_SEED] = seed
    return FaultPlan(seed=seed)


_SEED = pytest.StashKey[int]()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file of this test's own, not created yet."""
    return f"sqlite:///{tmp_path / 'eventbus.db'}"


async def _bus(
    request: pytest.FixtureRequest, eventbus_app: EventBus, clock: Clock, published: Published
) -> AsyncIterator[EventBus]:
    """`eventbus_app` on memory:// and sqlite://, entered; failed handlers fail the test."""
    from eventbus.testing.harness import Harness

    plan = request.getfixturevalue("faults") if "faults" in request.fixturenames else None
    harness = Harness(eventbus_app, clock=clock, published=published, plan=plan)
    async with harness.bus as bus:
        yield bus
        failures = await harness.failures()
    marker = request.node.get_closest_marker(_MARK)
    wanted = marker is not None and marker.kwargs.get("failures") == "collect"
    if failures and not wanted:
        pytest.fail("\n".join([_UNHANDLED, *failures]), pytrace=False)


_UNHANDLED = (
    f'handlers failed in this test (@pytest.mark.{_MARK}(failures="collect") if they should):'
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say how to replay a test that failed under faults."""
    report = yield
    seed = item.stash.get(_SEED, None)
    if report.failed and seed is not None:
        report.sections.append(("eventbus", f"the same faults again: --eventbus-seed={seed}"))
    return report
