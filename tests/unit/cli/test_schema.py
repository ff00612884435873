"""schema: what travels, its snapshot, and what a change of the code breaks of it."""

import json
from pathlib import Path

import pytest

from .conftest import Run

JSON = ("-o", "json")
NOTHING: set[str] = set()
HEAD = """
from decimal import Decimal
from typing import Any, Literal
from eventbus import Event, EventBus, subscribe, upcast
"""
BODY = "class Ordered(Event, type='shop.ordered', key='order'):\n    order: str\n    cents: int\n"
V2 = """
class Ordered(Event, type='shop.ordered', key='order', version=2):
    order: str
    total: int

    @staticmethod
    @upcast(1)
    def rename(data: dict[str, Any]) -> dict[str, Any]:
        return {"order": data["order"], "total": data["cents"]}
"""
TAIL = """

@subscribe(Ordered, group="fine")
async def handle(event: Ordered) -> None:
    pass


bus = EventBus("memory://", service="shop", handlers=[handle])
"""


def write(name: str, body: str = BODY) -> tuple[str, ...]:
    """An app of that name; a change is another module, for modules are imported once."""
    Path(f"{name}.py").write_text(HEAD + body + TAIL, encoding="utf-8")
    return ("--app", f"{name}:bus", *JSON)


def codes(run: Run, body: str, mode: str) -> tuple[int, set[str]]:
    """What the check says of that body against the snapshot of BODY."""
    assert run("schema", "snapshot", *write("before")).code == 0
    ran = run("schema", "check", "--mode", mode, *write("after", body)).fits("schema-check")
    assert ran.result["compatible"] is (ran.code == 0)
    return ran.code, {one["code"] for one in ran.result["findings"]}


def test_unchanged_code_is_compatible_in_every_mode(run: Run) -> None:
    for mode in ("backward", "forward", "full"):
        assert codes(run, BODY, mode) == (0, set())


@pytest.mark.parametrize(
    ("change", "mode", "found"),
    [
        (("cents: int", "cents: int\n    note: str"), "backward", {"EB3107", "EB3108"}),
        (("cents: int", "total: int"), "backward", {"EB3107", "EB3108"}),
        (("cents: int", "cents: bool"), "backward", {"EB3106", "EB3108"}),
        (("order: str", "order: Literal['A-1']"), "backward", {"EB3106", "EB3108"}),
        (("cents: int", ""), "forward", {"EB3105"}),
        (("cents: int", "cents: int | None"), "forward", {"EB3106"}),
        (("cents: int", "cents: Decimal"), "forward", {"EB3106"}),
        (("cents: int\n", ""), "full", {"EB3105"}),
        (("key='order'", "key='order', extra='forbid'"), "backward", NOTHING),
        (("key='order'", "key='order', version=2"), "backward", {"EB3109"}),
        (("key='order'", "key='order', version=2"), "forward", {"EB3111"}),
        (("shop.ordered", "shop.order-placed"), "backward", {"EB3110"}),
    ],
)
def test_a_breaking_change_is_found(
    run: Run, change: tuple[str, str], mode: str, found: set[str]
) -> None:
    code, seen = codes(run, BODY.replace(*change), mode)
    assert seen - {"EB3113"} == found
    assert code == (1 if found else 0)


@pytest.mark.parametrize(
    "change",
    [
        ("cents: int", "cents: int\n    note: str = ''"),
        ("cents: int", "cents: float"),
        ("cents: int", "cents: int | None = None"),
        ("cents: int", ""),
    ],
)
def test_a_compatible_change_passes_and_is_said_to_be_unrecorded(
    run: Run, change: tuple[str, str]
) -> None:
    assert codes(run, BODY.replace(*change), "backward") == (0, {"EB3113"})


def test_a_strict_class_that_loses_a_field_is_found(run: Run) -> None:
    strict = BODY.replace("key='order'", "key='order', extra='forbid'")
    run("schema", "snapshot", *write("before"))
    ran = run("schema", "check", *write("after", strict.replace("    cents: int\n", "")))
    assert "EB3112" in {one["code"] for one in ran.result["findings"]}


def test_a_new_field_is_found_where_older_readers_are_strict(run: Run) -> None:
    strict = BODY.replace("key='order'", "key='order', extra='forbid'")
    run("schema", "snapshot", *write("before", strict))
    later = write("after", f"{strict}    note: str = ''\n")
    assert run("schema", "check", "--mode", "backward", *later).code == 0
    ran = run("schema", "check", "--mode", "forward", *later)
    assert (ran.code, {one["code"] for one in ran.result["findings"]}) == (1, {"EB3112", "EB3113"})


def test_a_new_version_with_its_upcaster_passes_and_older_versions_stay_recorded(run: Run) -> None:
    assert codes(run, V2, "backward") == (0, {"EB3113"})
    assert run("schema", "snapshot", *write("next2", V2)).result["recorded"] == ["shop.ordered@2"]
    recorded = json.loads(Path("eventbus-schemas.json").read_text(encoding="utf-8"))
    assert list(recorded["types"]["shop.ordered"]) == ["1", "2"]
    assert run("schema", "check", *write("next3", V2)).result["findings"] == []
    back = run("schema", "check", *write("back"))
    assert (back.code, back.result["findings"][0]["code"]) == (1, "EB3108")


def test_a_snapshot_that_would_accept_a_break_asks_first(run: Run) -> None:
    run("schema", "snapshot", *write("before"))
    before = Path("eventbus-schemas.json").read_bytes()
    broken = write("after", BODY.replace("cents: int", "cents: bool"))
    ran = run("schema", "snapshot", *broken)
    assert (ran.code, Path("eventbus-schemas.json").read_bytes()) == (5, before)
    assert "EB3106" in ran.err
    assert run("schema", "snapshot", "--yes", *broken).code == 0
    assert run("schema", "check", *broken).code == 0


def test_a_dry_run_writes_no_snapshot(run: Run) -> None:
    ran = run("schema", "snapshot", "--dry-run", *write("before")).fits("schema-snapshot")
    assert ran.result["recorded"] == ["shop.ordered@1"]
    assert not Path("eventbus-schemas.json").exists()


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": "other", "types": {}}'])
def test_a_check_without_a_snapshot_is_refused(run: Run, text: str | None) -> None:
    if text is not None:
        Path("eventbus-schemas.json").write_text(text, encoding="utf-8")
    ran = run("schema", "check", *write("before")).fits("error")
    assert (ran.code, json.loads(ran.err)["code"]) == (2, "EB1220")


def test_list_and_show_say_what_travels(run: Run) -> None:
    run("schema", "snapshot", *write("before"))
    later = write("after", V2)
    [row] = run("schema", "list", *later).fits("schema-list").result
    assert row["fields"] == ["order", "total"]
    assert row["upcasters"] == [1]
    assert "order, total" in run("schema", "list", *later[:2]).out
    shown = run("schema", "show", "shop.ordered", *later).fits("schema-show").result
    assert (shown["version"], "total" in shown["schema"]["properties"]) == (2, True)
    former = run("schema", "show", "shop.ordered@1", *later).fits("schema-show").result
    assert (former["version"], "cents" in former["schema"]["properties"]) == (1, True)


@pytest.mark.parametrize(
    ("name", "code"),
    [("shop.orderd", "EB1006"), ("shop.ordered@9", "EB1006"), ("shop.ordered@x", "EB8001")],
)
def test_a_type_that_is_not_there_is_named(run: Run, name: str, code: str) -> None:
    run("schema", "snapshot", *write("before"))
    ran = run("schema", "show", name, *write("after"))
    assert (ran.code, json.loads(ran.err)["code"]) == (2, code)


def test_a_sample_goes_through_the_upcasters(run: Run) -> None:
    Path("sample.json").write_text('{"order": "A-1", "cents": 7}', encoding="utf-8")
    app = write("after", V2)
    ran = run("schema", "upcast", "shop.ordered", "--sample", "sample.json", *app)
    assert ran.fits("schema-upcast").result["data"] == {"order": "A-1", "total": 7}
    assert ran.result["upcasters"] == [{"version": 1, "upcaster": "rename"}]
    for version, code in ((2, "EB3102"), (3, "EB3101")):
        name = f"shop.ordered@{version}"
        refused = run("schema", "upcast", name, "--sample", "sample.json", *app)
        told = json.loads(refused.err)
        assert (refused.code, told["code"]) == (5, code)
        assert told["where"] == f"--sample sample.json, as v{version}"
        assert "quarantined" not in told["next"]


def test_a_sample_that_is_not_there_is_refused(run: Run) -> None:
    ran = run("schema", "upcast", "shop.ordered", "--sample", "none.json", *write("before"))
    assert (ran.code, json.loads(ran.err)["code"]) == (2, "EB1221")


def test_a_field_that_has_no_schema_is_named(run: Run) -> None:
    body = BODY.replace("cents: int", "cents: Token").replace(
        "key='order'", "key='order', arbitrary_types_allowed=True"
    )
    ran = run("schema", "list", *write("before", f"class Token:\n    pass\n\n\n{body}"))
    assert (ran.code, json.loads(ran.err)["code"]) == (2, "EB1222")
