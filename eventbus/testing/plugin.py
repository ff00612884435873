"""The pytest plugin; every run of every project that has us installed imports it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Generator, Sequence
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
_LIVE = (
    ("transport", ("kafka", "rabbit"), "kafka,rabbit"),
    ("storage", ("postgres", "sqlite"), "postgres"),
)


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
    group.addoption(
        "--eventbus-lint",
        action="store_true",
        help="a test for each saga of the bus under test: what the linter finds fails it",
    )
    for what, known, usual in _LIVE:
        group.addoption(
            f"--eventbus-{what}",
            metavar=f"{what.upper()},…",
            default=usual,
            help=f"where live_bus runs: {','.join(known)}; each pair is a test; {usual}",
        )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker; make the asynchronous fixtures in the way of the plugin that runs them.

    Raises:
        pytest.UsageError: live_bus cannot run where an option says.
    """
    config.addinivalue_line(
        "markers",
        f'{_MARK}(failures="collect"): failed handlers are part of this test of `bus`',
    )
    if (3, 12) <= sys.version_info < (3, 12, 4):  # takes ?1 for a name: cpython issue 117995
        config.addinivalue_line("filterwarnings", "ignore:Binding:DeprecationWarning")
    asynchronous = ModuleType("eventbus_asynchronous")  # a holder of fixtures must be a module
    asynchronous.bus = _decorator(config)(name="bus")(_bus)  # type: ignore[attr-defined]  # made here
    asynchronous.live_bus = _decorator(config)(name="live_bus")(_live_bus)  # type: ignore[attr-defined]  # made here
    config.pluginmanager.register(asynchronous, "eventbus-asynchronous")

    for what, known, _ in _LIVE:
        for name in _chosen(config, what):
            if name not in known:
                there = ", ".join(known)
                raise pytest.UsageError(f"--eventbus-{what}={name}: there is {there}")


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """The linter's tests stand behind the others.

    Raises:
        pytest.UsageError: nobody says which bus, or the name leads nowhere.
    """
    if config.getoption("--eventbus-lint"):
        from eventbus.testing.saga_lint import lint_items

        items += lint_items(session, _under_test(config))


def _chosen(config: pytest.Config, what: str) -> list[str]:
    return str(config.getoption(f"--eventbus-{what}")).split(",")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of live_bus for each pair of transport and storage."""
    if _PAIR not in metafunc.fixturenames:
        return
    pairs = [
        pytest.param(
            (transport, storage),
            id=f"{transport}-{storage}",
            marks=[getattr(pytest.mark, name) for name in (transport, storage) if name != "sqlite"],
        )
        for transport in _chosen(metafunc.config, "transport")
        for storage in _chosen(metafunc.config, "storage")
    ]
    metafunc.parametrize(_PAIR, pairs, indirect=True)


_PAIR = "eventbus_live"


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
    return _under_test(request.config)


def _under_test(config: pytest.Config) -> EventBus:
    from eventbus.testing.harness import locate

    target = config.getoption("--eventbus-app") or _configured(config.rootpath)
    if not target:
        raise pytest.UsageError(
            "no bus under test: --eventbus-app=shop.app:bus, or app = 'shop.app:bus' under "
            "[tool.eventbus] in pyproject.toml, or a fixture eventbus_app of your own"
        )
    root = str(config.rootpath)
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
    _fail_for(request, failures)


@pytest.fixture
def eventbus_live(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Transport and storage of `live_bus` in this test."""
    transport, storage = request.param
    return str(transport), str(storage)


async def _live_bus(
    request: pytest.FixtureRequest, eventbus_app: EventBus, eventbus_live: tuple[str, str]
) -> AsyncIterator[EventBus]:
    """`eventbus_app` on real services, entered; failed handlers fail the test."""
    from eventbus.testing.live import kafka_for_tests, live

    transport, storage = eventbus_live
    url, prefix = str(request.getfixturevalue(f"{transport}_url")), ""
    if transport == "kafka":  # all tests share its topics
        url, prefix = kafka_for_tests(url), str(request.getfixturevalue("kafka_prefix"))
    at = str(request.getfixturevalue(f"{storage}_url"))
    failures: list[str] = []
    async with live(
        eventbus_app, transport=url, storage=at, prefix=prefix, failures=failures
    ) as it:
        yield it
    _fail_for(request, failures)


def _fail_for(request: pytest.FixtureRequest, failures: Sequence[str]) -> None:
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
