"""The README's first screen and its cards do what they say."""

import ast
import inspect
import re
import runpy
import subprocess
import sys
import textwrap
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import eventbus
from eventbus import EventBus, sourcing
from tests.docs.child import printed_by
from tests.docs.pages import ROOT, Block, blocks

README = list(blocks(ROOT / "README.md"))
PYTHON = [block for block in README if block.language == "python"]
APP = next(block for block in PYTHON if block.file == "app.py")
CARDS = [block for block in PYTHON if block is not APP]
DESIGN = """
import asyncio
from eventbus import Context, Event, EventBus, subscribe

class OrderPlaced(Event, type="shop.order-placed", key="order_id"):
    order_id: str
    cents: int

class OrderBilled(Event, type="billing.order-billed", key="order_id"):
    order_id: str

@subscribe(OrderPlaced, group="billing")
async def bill(event: OrderPlaced, ctx: Context) -> None:
    await ctx.sql.execute(
        "INSERT INTO bills (order_id, cents) VALUES ($1, $2)", event.order_id, event.cents
    )
    await ctx.publish(OrderBilled(order_id=event.order_id))

@subscribe(OrderBilled, group="mail")
async def thank(event: OrderBilled) -> None:
    print("billed", event.order_id)

bus = EventBus("memory://", storage="sqlite://", handlers=[bill, thank])

async def main() -> None:
    async with bus:
        async with bus.transaction() as tx:
            await tx.sql.execute(
                "CREATE TABLE bills (order_id text PRIMARY KEY, cents bigint NOT NULL)"
            )
            await tx.publish(OrderPlaced(order_id="A-1", cents=4200))

asyncio.run(main())
"""


def test_the_first_screen_does_what_it_shows(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.text, encoding="utf-8")
    screen = next(block.text for block in README if block.language == "console")
    command, *expected = screen.splitlines()
    lines = printed_by(command.removeprefix("$ "), tmp_path, count=len(expected))
    assert [without_times(line) for line in lines] == [without_times(line) for line in expected]


def test_the_first_screen_runs_on_a_file_as_well(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.text, encoding="utf-8")
    screen = next(block.text for block in README if block.language == "console")
    command = screen.splitlines()[0].removeprefix("$ ") + " --storage sqlite:///shop.db"
    lines = printed_by(command, tmp_path, count=3)
    assert lines[1] == "bill A-1: 4200"
    assert (tmp_path / "shop.db").exists()


def without_times(line: str) -> str:
    return re.sub(r"\d\d:\d\d:\d\d", "00:00:00", re.sub(r"\d+\.\d ms", "0.0 ms", line))


def test_the_snippet_that_says_what_this_is_for_prints_its_line(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(DESIGN, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "snippet.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "billed A-1\n", "")


@pytest.mark.parametrize("card", CARDS, ids=str)
def test_a_card_has_at_most_ten_lines(card: Block) -> None:
    assert len([line for line in card.text.splitlines() if line.strip()]) <= 10


def card(word: str) -> Block:
    [found] = [block for block in CARDS if word in block.text]
    return found


async def perform(block: Block, names: dict[str, Any]) -> dict[str, Any]:
    """Run a block that may await at its top level, as in a notebook."""
    names |= {name: getattr(eventbus, name) for name in eventbus.__all__}
    code = compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(code, CodeType)
    if code.co_flags & inspect.CO_COROUTINE:
        await eval(code, names)
    else:
        exec(code, names)
    return names


async def app() -> dict[str, Any]:
    return await perform(APP, {"__name__": "app"})


async def test_the_card_of_transactions(capsys: pytest.CaptureFixture[str]) -> None:
    names = await app()
    async with names["bus"].replace(storage="sqlite://") as bus:
        async with bus.transaction() as tx:
            await tx.sql.execute("CREATE TABLE orders (id text PRIMARY KEY, cents bigint)")
        await perform(card("INSERT INTO orders"), {**names, "bus": bus})
        await bus.until_idle()
    assert capsys.readouterr().out == "bill A-1: 4200\n"


async def test_the_card_of_retries() -> None:
    class CardRefused(Exception):  # noqa: N818 - as the card calls it
        pass

    async def charge(cents: int, *, key: str) -> None:
        assert key.startswith("billing:")
        raise CardRefused if cents == 1 else RuntimeError

    names = {**await app(), "timedelta": timedelta, "CardRefused": CardRefused, "charge": charge}
    names = await perform(card("RetryPolicy"), names)
    placed = names["OrderPlaced"]
    async with EventBus("memory://", storage="sqlite://", handlers=[names["bill"]]) as bus:
        await bus.publish(placed(order_id="A-1", cents=4200))
        await bus.publish(placed(order_id="A-1", cents=4201))
        await bus.publish(placed(order_id="A-2", cents=1))
        await bus.until_idle()
        assert [row["state"] for row in await bus.parked.list()] == ["retrying", "queued"]
        assert [row["key"] for row in await bus.dead_letters.list()] == ["A-2"]


async def test_the_card_of_read_models() -> None:
    names = await perform(card("FoldingProjection"), {**await app(), **vars(sourcing)})
    placed, projection = names["OrderPlaced"], names["SpentByOrder"]
    async with EventBus("memory://", storage="sqlite://", handlers=[projection]) as bus:
        orders = [placed(order_id="A-1", cents=4200), placed(order_id="A-1", cents=800)]
        await bus.events.append("order-A-1", orders, expected="absent")
        await bus.until_idle()
        assert await bus.projections.get("spent", "A-1") == names["Spent"](
            order_id="A-1", cents=5000
        )
        await bus.projections.rebuild("spent")


@pytest.mark.parametrize(("cents", "status"), [(4200, "completed"), (4_200_000, "compensated")])
async def test_the_card_of_sagas(cents: int, status: str) -> None:
    shop = runpy.run_path(str(ROOT / "examples/05_saga.py"), run_name="shop")
    names = {**shop, "Order": shop["OrderState"]}
    place_order = (await perform(card("Saga["), names))["PlaceOrder"]
    handlers = [place_order, shop["charge_card"], shop["refund_card"]]
    async with EventBus("memory://", storage="sqlite://", handlers=handlers) as bus:
        await bus.publish(shop["OrderPlaced"](order_id="A-1", cents=cents))
        await bus.until_idle()
        (saga,) = await bus.sagas.list()
        assert saga.status == status


def test_the_card_of_fixtures(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.text, encoding="utf-8")
    text = f"from app import OrderPlaced\n\n\n{card('published.one').text}"
    (tmp_path / "test_app.py").write_text(text, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.eventbus]\napp = "app:bus"\n'
        '[tool.pytest.ini_options]\nasyncio_mode = "auto"\npythonpath = ["."]\n',
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


async def test_the_untyped_card(capsys: pytest.CaptureFixture[str]) -> None:
    await perform(card("user.created"), {})
    assert capsys.readouterr().out == "welcome 123\n"


async def test_the_card_of_fastapi(capsys: pytest.CaptureFixture[str]) -> None:
    fastapi = pytest.importorskip("fastapi", reason="fastapi is no dependency: compiled only")
    names = {**await app(), "asynccontextmanager": asynccontextmanager, "FastAPI": fastapi.FastAPI}
    names = await perform(card("FastAPI"), names)
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"order_id": "A-1", "cents": 4200}'}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    scope = {"type": "http", "method": "POST", "path": "/orders", "query_string": b""}
    headers = [(b"content-type", b"application/json")]
    served = names["app"]
    async with served.router.lifespan_context(served):
        await served({**scope, "headers": headers, "asgi": {"version": "3.0"}}, receive, send)
    assert answers[0]["status"] == 202
    assert capsys.readouterr().out == "bill A-1: 4200\n"


def test_the_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shell = textwrap.dedent("\n".join(block.text for block in README if block.language == "sh"))
    targets = re.findall(r"^make (\w+)", shell, re.MULTILINE)
    assert targets == ["demo", "shop", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
