"""What users may import, and that it is there."""

import ast
from importlib import import_module

import pytest

import eventbus
from tests.architecture.source import ROOT, files, name, tree

ROOMS = [
    "eventbus.asyncapi",
    "eventbus.errors",
    "eventbus.event",
    "eventbus.handler",
    "eventbus.inspection",
    "eventbus.instrumentation",
    "eventbus.memory",
    "eventbus.message",
    "eventbus.observability",
    "eventbus.resilience",
    "eventbus.saga",
    "eventbus.service",
    "eventbus.sourcing",
    "eventbus.sqlite",
    "eventbus.storage",
    "eventbus.testing",
    "eventbus.transport",
]


def test_every_public_name_is_there_and_documented() -> None:
    for each in eventbus.__all__:
        assert getattr(eventbus, each).__doc__, each


def test_a_misspelt_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="EventBuss"):
        _ = eventbus.EventBuss  # type: ignore[attr-defined]  # that is the point


def test_type_checkers_see_the_names_that_there_are() -> None:
    module = tree(ROOT / "eventbus" / "__init__.py")
    seen = {
        each.asname or each.name
        for node in module.body
        if isinstance(node, ast.If)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for each in statement.names
    }
    assert seen == set(eventbus.__all__)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_can_be_imported_and_says_what_it_is_for(room: str) -> None:
    module = import_module(room)
    assert module.__doc__
    for each in getattr(module, "__all__", ()):
        assert getattr(module, each) is not None


def test_every_module_has_a_line_that_says_what_it_is_for() -> None:
    silent = [name(path) for path in files("eventbus") if not ast.get_docstring(tree(path))]
    assert silent == []


def test_the_api_page_names_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    assert [each for each in eventbus.__all__ if f"`{each}" not in page] == []
