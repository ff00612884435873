"""Every example runs alone and prints what its header says."""

import ast
import doctest
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("[0-9]*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_an_example_prints_what_its_header_says(script: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**environment, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = header(script)
    assert doctest.OutputChecker().check_output(said, done.stdout, doctest.ELLIPSIS), done.stdout


def header(script: Path) -> str:
    """The lines below `Prints:` in the module's docstring."""
    docstring = ast.get_docstring(ast.parse(script.read_text()))
    assert docstring is not None
    return textwrap.dedent(docstring.partition("Prints:\n")[2]) + "\n"


def test_the_examples_use_public_names_only() -> None:
    deep = [
        f"{path.name}: {line}"
        for path in EXAMPLES.rglob("*.py")
        for line in re.findall(r"^\s*(?:from|import) (eventbus\.\w+\.\S+)", path.read_text(), re.M)
    ]
    assert deep == []


def test_there_are_examples_and_each_says_what_it_prints() -> None:
    assert len(SCRIPTS) >= 4
    assert [script.name for script in SCRIPTS if header(script).strip() == ""] == []
