"""`eventbus init NAME`: a small working project, with a test that needs no service."""

import re
from pathlib import Path

import click

from eventbus.cli.flags import Command, Settings
from eventbus.cli.output import show_facts
from eventbus.errors import ConfigurationError

_APP = '''"""{name}: orders that are billed."""

import os

from eventbus import Context, Event, EventBus, subscribe


class OrderPlaced(Event, type="{name}.order-placed", key="order_id"):
    order_id: str
    cents: int


class OrderBilled(Event, type="{name}.order-billed", key="order_id"):
    order_id: str
    cents: int


@subscribe(OrderPlaced, group="billing")
async def bill(event: OrderPlaced, ctx: Context) -> None:
    await ctx.publish(OrderBilled(order_id=event.order_id, cents=event.cents))


@subscribe(OrderBilled, group="mail")
async def thank(event: OrderBilled) -> None:
    print(f"thank you for {{event.order_id}}: {{event.cents / 100:.2f}}")


bus = EventBus(
    os.environ.get("EVENTBUS_TRANSPORT", "memory://"),
    storage=os.environ.get("EVENTBUS_STORAGE", {storage}),
    service="{name}",
    handlers=[bill, thank],
)
'''

_TEST = """import asyncio

import pytest

from app import OrderPlaced, bus


async def order(order_id: str, cents: int) -> None:
    async with bus.replace(transport="memory://", storage="sqlite://") as running:
        await running.publish(OrderPlaced(order_id=order_id, cents=cents))
        await running.until_idle()


def test_an_order_is_billed_and_thanked_for(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(order("A-1", 4200))
    assert capsys.readouterr().out == "thank you for A-1: 42.00\\n"
"""

_PROJECT = """[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["eventbus"]

[dependency-groups]
dev = ["pytest>=8"]

[tool.eventbus]
app = "app:bus"

[tool.pytest.ini_options]
pythonpath = ["."]
"""

_NAME = re.compile(r"[a-z][a-z0-9-]*")


@click.command(cls=Command)
@click.argument("name")
@click.option("--transport", type=click.Choice(["memory"]), default="memory", show_default=True)
@click.option("--storage", type=click.Choice(["sqlite"]), help="Without: none.")
@click.pass_obj
def init(settings: Settings, name: str, transport: str, storage: str | None) -> None:
    """Write app.py, test_app.py and pyproject.toml into the new directory NAME."""
    folder = Path(name)
    if not _NAME.fullmatch(folder.name):
        raise click.UsageError(f"{folder.name!r} is no name: lower-case letters, digits, hyphens")
    if folder.exists() and any(folder.iterdir()):
        raise _is_there(folder)
    written = contents(folder.name, storage)
    if not settings.dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in written.items():
            (folder / file).write_text(text, encoding="utf-8")
    facts = {"directory": name, "files": list(written), "dry_run": settings.dry_run}
    show_facts(
        settings,
        "init",
        facts,
        [
            *(f"{name}/{file}" for file in written),
            f"next: cd {name} && pytest && eventbus dev --publish"
            f""" '{folder.name}.order-placed {{"order_id": "A-1", "cents": 4200}}'""",
        ],
    )


def contents(name: str, storage: str | None) -> dict[str, str]:
    """The files of a new project."""
    url = "None" if storage is None else f'"sqlite:///{name}.db"'
    files = {
        "app.py": _APP.format(name=name, storage=url),
        "test_app.py": _TEST,
        "pyproject.toml": _PROJECT.format(name=name),
    }
    if storage is not None:
        files[".gitignore"] = "*.db\n*.db-shm\n*.db-wal\n*.db.lock\n"
    return files


def _is_there(folder: Path) -> ConfigurationError:
    return ConfigurationError(
        "EB8005",
        f"{folder}/ is not empty",
        where=f"eventbus init {folder}",
        why="nothing is overwritten",
        next="choose another name, or empty the directory",
    )
