"""`eventbus topology`, against real brokers: planned, refused, made, shown."""

import asyncio
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import jsonschema
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from eventbus.cli.main import main
from eventbus.sqlite import SqliteStorage

SCHEMAS = Path(__file__).parents[2] / "docs" / "reference" / "cli"
APP = """
from eventbus import Event, EventBus, subscribe

class Placed(Event, type="shop.placed", key="order", topic="{prefix}shop"):
    order: str

@subscribe(Placed, group="{prefix}billing")
async def bill(event: Placed) -> None: ...

@subscribe(Placed, group="{prefix}stock")
async def pick(event: Placed) -> None: ...

bus = EventBus("{url}", storage={storage}, handlers=[bill, pick], service="shop")
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def result(self) -> Any:
        """What `-o json` says; it fits its schema."""
        said: Mapping[str, Any] = json.loads(self.out)
        name = str(said["command"]).replace(" ", "-")
        jsonschema.validate(said, json.loads((SCHEMAS / f"{name}.json").read_text()))
        return said["result"]


class App:
    """A module with a bus, and the command on it: in this process, for a start costs a second."""

    def __init__(self, folder: Path, prefix: str, url: str, storage: str | None) -> None:
        self.prefix = prefix
        self._name = f"shop_{uuid4().hex}"
        text = APP.format(prefix=prefix, url=url, storage=repr(storage))
        (folder / f"{self._name}.py").write_text(text, encoding="utf-8")

    def run(self, *args: str) -> Ran:
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main(["topology", *args, "--timeout", "60s", "--app", f"{self._name}:bus"])
        return Ran(code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", StringIO())
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture(params=[None, "sqlite://"], ids=["without-storage", "with-storage"])
def storage(request: pytest.FixtureRequest) -> str | None:
    url: str | None = request.param
    return url


@pytest.fixture
def on_kafka(tmp_path: Path, kafka_url: str, kafka_prefix: str, storage: str | None) -> App:
    return App(tmp_path, kafka_prefix, f"{kafka_url}?partitions=3&replication=1", storage)


@pytest.fixture
def on_rabbit(tmp_path: Path, rabbit_url: str, storage: str | None) -> App:
    return App(tmp_path, "", rabbit_url, storage)


def becomes_right(app: App, names: set[str]) -> None:
    """Nothing is there; what is planned is made, and then nothing is planned."""
    before = app.run("status", "-o", "json")
    assert before.code == 1
    assert {(row["name"], row["state"]) for row in before.result} == {(n, "missing") for n in names}
    planned = app.run("plan", "-o", "json").result
    assert len(planned) == len(names)
    assert all(change["what"].startswith("create ") for change in planned)
    unsure = app.run("apply")
    assert (unsure.code, unsure.err.splitlines()[len(names) + 1][:6]) == (5, "EB8002")
    tried = app.run("apply", "--dry-run", "-o", "json")
    assert (tried.code, tried.result) == (0, {"changes": planned, "dry_run": True})
    assert app.run("plan", "-o", "json").result == planned  # nothing was made so far
    done = app.run("apply", "--yes", "-o", "json")
    assert (done.code, done.result) == (0, {"changes": planned, "dry_run": False})
    after = app.run("status", "-o", "json")
    assert after.code == 0
    assert {(row["name"], row["state"]) for row in after.result} == {(n, "there") for n in names}
    assert app.run("plan", "-o", "json").result == []
    again = app.run("apply")
    assert (again.code, again.out) == (0, "nothing is missing\n")


def test_what_was_made_stands_in_the_audit_of_the_storage(tmp_path: Path, rabbit_url: str) -> None:
    app = App(tmp_path, "", rabbit_url, "sqlite:///shop.db")
    asyncio.run(SqliteStorage("shop.db").upgrade())
    planned = [change["what"] for change in app.run("plan", "-o", "json").result]
    assert app.run("apply", "--yes", "--reason", "release 7").code == 0
    assert app.run("apply", "--yes").code == 0  # there is nothing to do, and nothing to tell
    query = (
        "SELECT verb, selection, changed, reason FROM eventbus_audit WHERE verb LIKE 'topology%'"
    )
    with closing(sqlite3.connect("shop.db")) as connection:
        [(verb, told, changed, reason)] = connection.execute(query)
    assert (verb, changed, reason) == ("topology apply", len(planned), "release 7")
    assert json.loads(told) == {"changes": planned}


def test_a_storage_without_tables_keeps_nothing_and_fails_nothing(
    tmp_path: Path, rabbit_url: str
) -> None:
    app = App(tmp_path, "", rabbit_url, "sqlite:///shop.db")
    done = app.run("apply", "--yes")
    assert done.code == 0
    assert "not in the audit: EB5001" in done.err


def test_topics_are_made_with_those_of_dead_letters(on_kafka: App, storage: str | None) -> None:
    topic = f"{on_kafka.prefix}shop"
    groups = () if storage else (f"{on_kafka.prefix}billing", f"{on_kafka.prefix}stock")
    becomes_right(on_kafka, {topic, *(f"{topic}.{group}.dlq" for group in groups)})
    shown = on_kafka.run("status").out.splitlines()
    assert shown[0].split() == ["KIND", "NAME", "STATE", "WHAT"]
    assert shown[1].split(maxsplit=3)[1:] == [topic, "there", "3 partitions, replicated 1 times"]


def test_exchanges_and_queues_are_made_with_those_of_dead_letters(
    on_rabbit: App, storage: str | None
) -> None:
    queues = {"billing", "billing.crashed", "stock", "stock.crashed"}
    letters = set() if storage else {"shop.billing.dlq", "shop.stock.dlq"}
    becomes_right(on_rabbit, {"shop", *queues, *letters})
    rows = on_rabbit.run("status", "-o", "json").result
    said = {row["name"]: row["what"] for row in rows}
    assert (said["shop"], said["billing"]) == ("topic", "0 ready, 0 consumers")


def test_another_partition_count_is_told_and_left_alone(on_kafka: App, kafka_url: str) -> None:
    async def make() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://"))
        await admin.start()
        await admin.create_topics([NewTopic(f"{on_kafka.prefix}shop", 5, 1)])
        await admin.close()

    asyncio.run(make())
    is_left_alone(on_kafka, "5 partitions, declared are 3")


def test_other_arguments_of_a_queue_are_told_and_left_alone(
    on_rabbit: App, rabbit_url: str
) -> None:
    async def make() -> None:
        async with await aio_pika.connect(rabbit_url) as connection:
            channel = await connection.channel()
            await channel.declare_queue("billing", durable=True)

    asyncio.run(make())
    is_left_alone(on_rabbit, "x-")


def is_left_alone(app: App, difference: str) -> None:
    planned = app.run("plan", "-o", "json").result
    (wrong,) = [change["what"] for change in planned if change["destructive"]]
    assert wrong.startswith("delete and create ")
    assert difference in wrong
    (state,) = {
        row["name"] for row in app.run("status", "-o", "json").result if row["state"] == "different"
    }
    refused = app.run("apply", "--yes")
    assert (refused.code, refused.err[:6]) == (5, "EB8009")
    assert state in refused.err
    assert app.run("plan", "-o", "json").result == planned  # and nothing else was made


def test_a_broker_that_is_away_is_told(tmp_path: Path) -> None:
    for url in ("kafka://127.0.0.1:1", "amqp://127.0.0.1:1/"):
        ran = App(tmp_path, "", url, None).run("status")
        assert (ran.code, ran.err[:6]) == (3, "EB2001")
        assert len(ran.err.splitlines()) <= 6


def test_what_has_no_topology_says_so(tmp_path: Path) -> None:
    ran = App(tmp_path, "", "memory://", None).run("plan")
    assert (ran.code, ran.err[:6]) == (2, "EB8001")
    assert "memory has no topology" in ran.err
