"""A project in a directory of its own, and commands run in it."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from eventbus.cli.main import main

SCHEMAS = Path(__file__).parents[3] / "docs" / "reference" / "cli"

APP = """
from datetime import timedelta

from eventbus import Event, EventBus, Group, RetryPolicy, subscribe


class Ordered(Event, type="shop.ordered", key="order"):
    order: str
    cents: int = 0


@subscribe(Ordered, group=Group("dying", retry=RetryPolicy(in_place=0, parked=())))
async def die(event: Ordered) -> None:
    raise ValueError("card refused")


@subscribe(Ordered, group=Group("retrying", retry=RetryPolicy(in_place=0)))
async def fail(event: Ordered) -> None:
    raise ConnectionError("mail server is away")


@subscribe(Ordered, group="fine")
async def handle(event: Ordered) -> None:
    pass


handlers = [die, fail, handle]
bus = EventBus("memory://", storage="sqlite:///shop.db", service="shop", handlers=handlers)
unsafe = EventBus("memory://", storage="sqlite:////nowhere/at/all.db", service="shop", handlers=[])

@subscribe(Ordered, group=Group("late", start="latest"))
async def look(event: Ordered) -> None:
    pass


warned = EventBus("memory://", handlers=[look])
number = 7
"""

FILL = """
import asyncio
from shop_app import Ordered, bus

async def fill() -> None:
    async with bus:
        for order in ("A-1", "A-1", "B-2"):
            await bus.publish(Ordered(order=order))
        await bus.until_idle()

asyncio.run(fill())
"""


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> Any:
        return json.loads(self.out)["result"]

    def fits(self, name: str) -> "Ran":
        """Validate stdout, or stderr if there is nothing on stdout, against a schema."""
        schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
        jsonschema.validate(json.loads(self.out or self.err.splitlines()[-1]), schema)
        return self


Run = Callable[..., Ran]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with an app, in which commands run; nothing of the environment gets in."""
    (tmp_path / "shop_app.py").write_text(APP, encoding="utf-8")
    for name in [name for name in os.environ if name.startswith("EVENTBUS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    logger = logging.getLogger("eventbus")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="session")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a bus left: dead letters A-1 and B-2 of group dying, and one that waits behind A-1."""
    folder = tmp_path_factory.mktemp("left")
    (folder / "shop_app.py").write_text(APP, encoding="utf-8")
    subprocess.run([sys.executable, "-c", FILL], check=True, cwd=folder, timeout=110)
    return folder / "shop.db"


@pytest.fixture
def filled(project: Path, left_behind: Path) -> Path:
    """The project with that database."""
    shutil.copy(left_behind, project / "shop.db")
    return project


@pytest.fixture
def run(project: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def run(*args: str) -> Ran:
        capsys.readouterr()
        code = main(args)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run
