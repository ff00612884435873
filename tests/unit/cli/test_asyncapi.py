"""asyncapi: a document of the app, whether one holds together, and what a change breaks."""

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run
from .test_schema import BODY, HEAD
from .test_schema import V2 as UPCASTED

JSON = ("-o", "json")
V2 = UPCASTED.partition("    @staticmethod")[0]
RECEIVES = """

@subscribe(Ordered, group="fine")
async def handle(event: Ordered) -> None:
    pass


bus = EventBus("memory://", service="depot", handlers=[handle])
"""
SENDS = "\n\nbus = EventBus('memory://', service='depot', handlers=[Ordered])\n"


def write(run: Run, name: str, body: str, tail: str, *flags: str) -> str:
    """The document of an app of that name; a change is another module."""
    Path(f"{name}.py").write_text(HEAD + body + tail, encoding="utf-8")
    file = f"{name}.json"
    assert run("asyncapi", "generate", f"{name}:bus", "--file", file, *flags).code == 0
    return file


def difference(run: Run, body: str, tail: str) -> tuple[int, list[Any]]:
    old, new = write(run, "before", BODY, tail), write(run, "after", body, tail)
    ran = run("asyncapi", "diff", old, new, *JSON).fits("asyncapi-diff")
    assert ran.result["breaking"] is (ran.code == 1)
    changes = [one for one in ran.result["changes"] if one["kind"] == "breaking"]
    return ran.code, [(one["part"], one["name"], one["why"]) for one in changes]


def test_the_document_goes_to_stdout_or_to_a_file(run: Run) -> None:
    Path("pyproject.toml").write_text('[project]\nversion = "1.4.0"\n', encoding="utf-8")
    shown = json.loads(run("asyncapi", "generate", "shop_app:bus").out)
    assert (shown["asyncapi"], shown["info"]) == ("3.1.0", {"title": "shop", "version": "1.4.0"})
    ran = run("asyncapi", "generate", "shop_app:bus", *JSON).fits("asyncapi-generate")
    assert ran.result["document"] == shown
    written = run("asyncapi", "generate", "shop_app:bus", "--file", "a.json", *JSON)
    assert written.fits("asyncapi-generate").result["changed"] is True
    assert json.loads(Path("a.json").read_text(encoding="utf-8")) == shown
    again = run("asyncapi", "generate", "shop_app:bus", "--file", "a.json", *JSON)
    assert again.result["changed"] is False


def test_a_dry_run_writes_nothing(run: Run) -> None:
    ran = run("asyncapi", "generate", "shop_app:bus", "--file", "a.json", "--dry-run")
    assert "would be written" in ran.out
    assert not Path("a.json").exists()


def test_the_transport_says_whose_addresses_it_has(run: Run) -> None:
    kafka = ("--transport", "kafka://localhost:9092")
    shown = json.loads(run("asyncapi", "generate", "shop_app:bus", *kafka).out)
    assert shown["servers"] == {"kafka": {"host": "localhost:9092", "protocol": "kafka"}}
    assert "kafka" in shown["channels"]["shop"]["bindings"]


def test_what_was_generated_is_valid_and_what_was_not_checked_is_said(run: Run) -> None:
    run("asyncapi", "generate", "shop_app:bus", "--file", "a.json")
    ran = run("asyncapi", "validate", "a.json", *JSON).fits("asyncapi-validate")
    assert (ran.code, ran.result["valid"]) == (0, True)
    told = run("asyncapi", "validate", "a.json")
    assert told.out == "a.json: nothing is wrong\n"
    assert "@asyncapi/parser" in told.err


def test_a_document_that_does_not_hold_together_is_found(run: Run) -> None:
    run("asyncapi", "generate", "shop_app:bus", "--file", "a.json")
    document = json.loads(Path("a.json").read_text(encoding="utf-8"))
    del document["channels"]["shop"]["messages"]["shop.ordered.v1"]
    Path("a.json").write_text(json.dumps(document), encoding="utf-8")
    ran = run("asyncapi", "validate", "a.json", *JSON).fits("asyncapi-validate")
    assert (ran.code, ran.result["valid"]) == (1, False)
    assert "leads nowhere" in ran.result["problems"][0]["what"]
    refused = run("asyncapi", "diff", "a.json", "a.json", *JSON).fits("error")
    assert (refused.code, json.loads(refused.err)["code"]) == (2, "EB8012")


@pytest.mark.parametrize("text", [None, "asyncapi: 3.1.0", "[]", "[" * 100_000])
def test_what_is_no_document_is_refused(run: Run, text: str | None) -> None:
    if text is not None:
        Path("a.json").write_text(text, encoding="utf-8")
    ran = run("asyncapi", "validate", "a.json", *JSON).fits("error")
    assert (ran.code, json.loads(ran.err)["code"]) == (2, "EB8011")


def test_nothing_changed_between_equal_documents(run: Run) -> None:
    for tail in (RECEIVES, SENDS):
        assert difference(run, BODY, tail) == (0, [])
    assert run("asyncapi", "diff", "before.json", "before.json").out == "nothing changed\n"


@pytest.mark.parametrize(
    ("change", "tail", "why"),
    [
        # whoever sends goes on as before: what is new must not be needed
        (("cents: int", "cents: int\n    note: str"), RECEIVES, "note: it is required"),
        (("cents: int", "cents: bool"), RECEIVES, "cents: integer became boolean"),
        # whoever receives does not know of it: what was there must stay
        (("    cents: int\n", ""), SENDS, "cents: it is required"),
        (("cents: int", "cents: str"), SENDS, "cents: string became integer"),
    ],
)
def test_a_schema_breaks_those_on_the_other_side(
    run: Run, change: tuple[str, str], tail: str, why: str
) -> None:
    code, ((part, name, said),) = difference(run, BODY.replace(*change), tail)
    assert (code, part, name) == (1, "message", "shop.ordered")
    assert why in said


@pytest.mark.parametrize(
    ("change", "tail"),
    [
        (("cents: int", "cents: int = 0\n    note: str = ''"), RECEIVES),
        (("    cents: int\n", ""), RECEIVES),
        (("cents: int", "cents: int\n    note: str"), SENDS),
    ],
)
def test_a_change_that_the_other_side_does_not_notice_breaks_nothing(
    run: Run, change: tuple[str, str], tail: str
) -> None:
    assert difference(run, BODY.replace(*change), tail) == (0, [])


@pytest.mark.parametrize(
    ("tail", "why"),
    [(SENDS, "readers have no way down"), (RECEIVES, "no upcaster leads there")],
)
def test_a_new_version_breaks_readers_and_writers_without_a_way_up(
    run: Run, tail: str, why: str
) -> None:
    (change,) = difference(run, V2, tail)[1]
    assert why in change[2]


def test_an_upcaster_keeps_the_writers(run: Run) -> None:
    assert difference(run, UPCASTED, RECEIVES) == (0, [])


def test_an_event_may_be_left_unread_and_not_unsent(run: Run) -> None:
    nothing = "bus = EventBus('memory://', service='depot', handlers=[])\n"
    empty = write(run, "empty", "", nothing)
    received = run("asyncapi", "diff", write(run, "one", BODY, RECEIVES), empty)
    assert received.code == 0
    assert "removed   channel    shop" in received.out
    assert "removed   operation  fine.handle" in received.out
    sent = run("asyncapi", "diff", write(run, "two", BODY, SENDS), empty)
    assert sent.code == 1
    assert "breaking  message    shop.ordered  shop: it is not sent any more" in sent.out


def test_a_command_may_be_left_unsent_and_not_unread(run: Run) -> None:
    body = (
        "from eventbus import Command, Context, Reply, handles\n"
        "class Charged(Reply, type='pay.charged'):\n    pass\n"
        "class Charge(Command[Charged], type='pay.charge', key='id'):\n    id: str\n"
    )
    sends = "bus = EventBus('memory://', storage='sqlite://', service='depot', handlers=[Charge])\n"
    handles = (
        "@handles(Charge, group='pay')\n"
        "async def charge(command: Charge, ctx: Context) -> Charged:\n    return Charged()\n"
        "bus = EventBus('memory://', storage='sqlite://', service='depot', handlers=[charge])\n"
    )
    nothing = "bus = EventBus('memory://', service='depot', handlers=[])\n"
    empty = write(run, "empty", "", nothing)
    assert run("asyncapi", "diff", write(run, "one", body, sends), empty).code == 0
    unread = run("asyncapi", "diff", write(run, "two", body, handles), empty)
    assert unread.code == 1
    assert "pay.charge  pay: it is not received any more" in unread.out
    assert "pay.charged  reply: it is not sent any more" in unread.out
    assert run("asyncapi", "diff", empty, "two.json").code == 0


def test_a_topic_elsewhere_breaks(run: Run) -> None:
    kafka = ("--transport", "kafka://localhost:9092?partitions=6")
    more = ("--transport", "kafka://localhost:9092?partitions=8")
    rabbit = ("--transport", "amqp://localhost/shop")
    before = write(run, "before", BODY, SENDS, *kafka)
    grown = run("asyncapi", "diff", before, write(run, "grown", BODY, SENDS, *more))
    assert (grown.code, grown.out) == (0, "changed   channel    shop  bindings\n")
    moved = run("asyncapi", "diff", before, write(run, "moved", BODY, SENDS, *rabbit))
    assert moved.code == 1
    assert "breaking  channel    shop  its address was 'shop' and is '{type}'" in moved.out


def test_an_exchange_of_another_name_breaks(run: Run) -> None:
    rabbit = ("--transport", "amqp://localhost/shop")
    file = write(run, "before", BODY, SENDS, *rabbit)
    document = json.loads(Path(file).read_text(encoding="utf-8"))
    document["channels"]["shop"]["bindings"]["amqp"]["exchange"]["name"] = "shops"
    Path("after.json").write_text(json.dumps(document), encoding="utf-8")
    ran = run("asyncapi", "diff", file, "after.json")
    assert (ran.code, ran.out) == (1, "breaking  channel    shop  its exchange was 'shop'\n")


def test_a_document_of_others_is_compared_too(run: Run) -> None:
    message = {"payload": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    channel = {"address": "shop", "messages": {"ordered": message}}
    operation = {"action": "send", "channel": {"$ref": "#/channels/shop"}}
    document: dict[str, Any] = {
        "asyncapi": "3.1.0",
        "info": {"title": "theirs", "version": "1"},
        "channels": {"shop": channel},
        "operations": {"ordered": operation},
    }
    Path("old.json").write_text(json.dumps(document), encoding="utf-8")
    message["payload"]["properties"] = {"a": {"type": "string"}}
    Path("new.json").write_text(json.dumps(document), encoding="utf-8")
    ran = run("asyncapi", "diff", "old.json", "new.json")
    assert ran.code == 1
    assert "a: string became integer" in ran.out


def test_what_stands_elsewhere_cannot_be_compared(run: Run) -> None:
    file = write(run, "app", BODY, SENDS)
    document = json.loads(Path(file).read_text(encoding="utf-8"))
    document["channels"]["other"] = {"$ref": "other.json"}
    Path("other.json").write_text(json.dumps(document), encoding="utf-8")
    ran = run("asyncapi", "diff", "other.json", file, *JSON).fits("error")
    assert (ran.code, json.loads(ran.err)["code"]) == (2, "EB8012")
