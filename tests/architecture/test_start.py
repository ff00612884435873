"""What importing costs and needs: no adapter, no extra, no platform of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

REFUSE = """
import sys

class Refused:
    def __init__(self, *names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"refused: {name}", name=name)
        return None
"""
ALL_MODULES = """
import pkgutil
from importlib import import_module
import eventbus

def import_all(*, but=()):
    count = 0
    for module in pkgutil.walk_packages(eventbus.__path__, "eventbus."):
        if module.name != "eventbus.__main__" and not module.name.startswith(but or ("\\0",)):
            import_module(module.name)
            count += 1
    return count
"""
DRAIN = """
import asyncio, os, signal
from eventbus import Event, EventBus, subscribe

class Placed(Event, type="shop.placed", key="order_id"):
    order_id: str

@subscribe(Placed, group="billing")
async def bill(event: Placed) -> None:
    print("billed", event.order_id, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

class Loop(asyncio.SelectorEventLoop):
    def add_signal_handler(self, *arguments):
        raise NotImplementedError

    def remove_signal_handler(self, *arguments):
        raise NotImplementedError

async def main():
    bus = EventBus("memory://", storage="sqlite:///shop.db", handlers=[bill], service="shop")
    async with bus.client():
        await bus.publish(Placed(order_id="A-1"))
    print("drained", await bus.run())

with asyncio.Runner(loop_factory=Loop) as runner:
    runner.run(main())
"""


def run(script: str, folder: Path) -> str:
    """In a child of its own, with warnings as errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import eventbus", "pydantic orjson tenacity click sqlite3 asyncio"),
        (
            "from eventbus import Event, EventBus, subscribe",
            "tenacity click sqlite3 eventbus.memory eventbus.sqlite eventbus.testing eventbus.cli",
        ),
        ("import eventbus.cli.main", "pydantic orjson tenacity sqlite3 eventbus.bus asyncio"),
        ("import eventbus.testing.plugin", "pydantic orjson click eventbus.bus sqlite3"),
    ],
)
def test_importing_loads_no_more_than_is_used(statement: str, absent: str, tmp_path: Path) -> None:
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    loaded = set(run(script, tmp_path).split())
    assert loaded.isdisjoint(absent.split())


def test_every_public_name_and_room_works_without_any_extra(tmp_path: Path) -> None:
    extras = "rich opentelemetry prometheus_client pytest pytest_asyncio uvloop psutil hypothesis"
    script = f"""
{REFUSE}
sys.meta_path.insert(0, Refused(*{extras.split()!r}))
{ALL_MODULES}
assert import_all(but=("eventbus.testing", "eventbus.postgres")) > 60
for name in eventbus.__all__:
    getattr(eventbus, name)
"""
    run(script, tmp_path)


def test_every_module_imports_where_unix_modules_are_missing(tmp_path: Path) -> None:
    script = f"""
{REFUSE}
sys.meta_path.insert(0, Refused("fcntl", "resource", "pwd"))
for name in ("fcntl", "resource", "pwd"):
    sys.modules.pop(name, None)
{ALL_MODULES}
assert import_all() > 80
"""
    run(script, tmp_path)


def test_a_file_is_locked_and_drained_where_the_loop_takes_no_signal_handlers(
    tmp_path: Path,
) -> None:
    """As on Windows, whose own file lock is played by a module of one function."""
    script = f"""
{REFUSE}
import asyncio, types  # the standard library asks for msvcrt to know where it is
sys.meta_path.insert(0, Refused("fcntl", "resource", "pwd"))
for name in ("fcntl", "resource", "pwd"):
    sys.modules.pop(name, None)
sys.modules["msvcrt"] = types.SimpleNamespace(
    LK_NBLCK=1, LK_UNLCK=2, locking=lambda *arguments: print("locking", arguments[1:])
)
{DRAIN}
"""
    lines = run(script, tmp_path).splitlines()
    assert "billed A-1" in lines
    assert "drained True" in lines
    assert any(line.startswith("locking") for line in lines)
