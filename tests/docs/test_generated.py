"""Pages made from the code are those of this code; no error code is missing."""

import pytest

from tests.docs import generated, surroundings
from tests.docs.pages import ROOT


@pytest.mark.parametrize("name", generated.PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    page = ROOT / "docs" / "reference" / name
    again = "python -m tests.docs.generated"
    assert page.read_text(encoding="utf-8") == generated.PAGES[name](), f"{name}: run {again}"


def test_every_code_in_the_source_stands_on_the_page_of_errors() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    missing = {code for code in generated.codes_in_the_source() if f"[{code}]" not in page}
    assert missing == set()


def test_every_code_has_a_block() -> None:
    pages = {page.stem for page in generated.EXPLAIN.glob("EB*.md")}
    assert [code for code in pages if not code.startswith(tuple(generated.BLOCKS))] == []


def test_every_variable_in_the_source_stands_on_the_page_of_the_environment() -> None:
    page = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    missing = {name for name in surroundings.variables_in_the_source() if f"`{name}`" not in page}
    assert missing == set()
