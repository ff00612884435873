"""The files of the schema, and the script that an administrator may run instead."""

import re

from eventbus.postgres.upgrade import migrations, script


def test_files_are_numbered_without_a_gap_and_say_their_kind() -> None:
    found = migrations()
    assert [one.number for one in found] == list(range(1, len(found) + 1))
    assert {one.kind for one in found} <= {"expand", "contract"}


def test_every_name_stands_in_the_schema() -> None:
    for one in migrations():
        sql = re.sub(r"--.*", "", one.sql("shop"))
        assert "{schema}" not in sql
        made = re.findall(r"(?:CREATE|ALTER) (?:TABLE|FUNCTION|TYPE) (\S+?)[ (]", sql)
        assert made
        assert all(name.startswith("shop.") for name in made)
        assert "search_path" not in sql


def test_the_script_records_what_it_does() -> None:
    text = script("shop")
    for one in migrations():
        assert f"VALUES ({one.number}, '{one.name}', '{one.kind}', '{one.digest}')" in text
    assert text.startswith("CREATE SCHEMA IF NOT EXISTS shop;")
