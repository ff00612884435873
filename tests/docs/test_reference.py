"""Pages of reference that are written by hand leave nothing out that the code has."""

import re
import sqlite3
from pathlib import Path

import asyncpg

from eventbus.postgres.storage import open_storage as open_postgres
from eventbus.sqlite.storage import open_storage as open_sqlite
from tests.docs.pages import ROOT

REFERENCE = ROOT / "docs" / "reference"
_TABLES = """
SELECT relname FROM pg_class WHERE relnamespace = 'eventbus'::regnamespace
   AND relkind IN ('r', 'p') AND NOT relispartition"""


def first_column(page: str) -> set[str]:
    """Names in the first cell of each row."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    cells = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


async def test_every_table_of_postgresql_stands_on_the_page_of_the_schema(
    postgres_url: str,
) -> None:
    await open_postgres(postgres_url, "docs").upgrade()
    connection = await asyncpg.connect(postgres_url)
    try:
        tables = {row["relname"] for row in await connection.fetch(_TABLES)}
    finally:
        await connection.close()
    assert first_column("database-schema.md") == tables


async def test_every_table_of_sqlite_stands_on_the_page_of_the_schema(tmp_path: Path) -> None:
    async with open_sqlite(f"sqlite:///{tmp_path / 'app.db'}", "docs"):
        pass
    connection = sqlite3.connect(tmp_path / "app.db")
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    connection.close()
    tables = {name.removeprefix("eventbus_") for (name,) in found if name != "sqlite_sequence"}
    assert first_column("database-schema.md") == tables


def test_every_fixture_and_option_of_pytest_stands_on_the_page_of_fixtures() -> None:
    testing = ROOT / "eventbus" / "testing"
    source = "".join(
        (testing / file).read_text(encoding="utf-8")
        for file in ("plugin.py", "services/fixtures.py")
    )
    fixtures = set(re.findall(r"@pytest\.fixture\ndef (\w+)|\(name=\"(\w+)\"\)", source))
    options = set(re.findall(r"\"(--eventbus-[a-z]+)\"", source))
    live = {f"--eventbus-{what}" for what in re.findall(r"^    \(\"(\w+)\", \(", source, re.M)}
    named = {name.partition("=")[0] for name in first_column("fixtures.md")}
    assert live == {"--eventbus-transport", "--eventbus-storage"}
    assert {one or other for one, other in fixtures} == {
        name for name in named if re.fullmatch("[a-z_]+", name)
    } - {"postgres", "rabbit", "kafka"}
    assert options | live == {name for name in named if name.startswith("--")}
