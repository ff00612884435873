"""verify: a rule that is broken on purpose is found, in words and as JSON."""

import sqlite3
from contextlib import closing
from pathlib import Path

from .conftest import Run

FILE = ("--storage", "sqlite:///shop.db")
JSON = ("-o", "json")


def break_it(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DELETE FROM eventbus_parked_keys WHERE key = 'A-1'")
        connection.commit()


def test_what_a_bus_leaves_behind_passes(run: Run, filled: Path) -> None:
    ran = run("verify", *FILE, *JSON).fits("verify")
    assert (ran.code, ran.result) == (0, {"ok": True, "findings": []})
    assert run("verify", "--sample", "1", *FILE).out == "ok\n"


def test_a_broken_rule_is_found_and_ends_with_1(run: Run, filled: Path) -> None:
    break_it(filled / "shop.db")
    ran = run("verify", *FILE, *JSON).fits("verify")
    assert ran.code == 1
    assert [one["code"] for one in ran.result["findings"]] == ["EB9001"]
    text = run("verify", *FILE)
    assert text.code == 1
    assert "whose key is not held" in text.out
    assert [line.split()[0] for line in text.out.splitlines()] == ["EB9001", "why", "next"]


def test_a_sample_is_a_number_of_rows(run: Run, filled: Path) -> None:
    ran = run("verify", "--sample", "-1", *FILE)
    assert (ran.code, ran.err.split()[0]) == (2, "EB8001")


def test_an_app_leads_to_its_storage(run: Run, filled: Path) -> None:
    assert run("verify", "--app", "shop_app:bus").code == 0


def test_verify_changes_nothing(run: Run, filled: Path) -> None:
    before = (filled / "shop.db").read_bytes()
    run("verify", *FILE)
    assert (filled / "shop.db").read_bytes() == before
