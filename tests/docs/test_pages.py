"""Links lead somewhere, Python compiles and runs, commands and flags exist."""

import ast
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from eventbus.cli.flags import global_flags
from eventbus.cli.main import eventbus
from tests.docs.pages import ROOT, Block, anchors, blocks, commands, links, pages

PAGES = pages()
PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]
RUNNABLE = [
    page
    for page in PAGES
    if page.name != "README.md"  # test_readme.py knows what stands around its cards
    and any("run" in block.marks or block.file for block in blocks(page))
]
GLOBAL = {name for flag in global_flags(hidden=False) for name in flag.opts} | {"--help"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_resolves(page: Path) -> None:
    for link in links(page):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        assert target.exists(), f"{name(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name(page)}: {link}"


def test_every_page_is_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    front = [ROOT / "README.md"]
    while front:
        page = front.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        front += [
            (page.parent / link.partition("#")[0]).resolve()
            for link in links(page)
            if not link.startswith(("http", "#", "mailto:"))
        ]
    assert sorted(map(name, set(PAGES) - seen)) == []


def test_decisions_are_numbered_one_by_one() -> None:
    numbers = sorted(int(page.name[:4]) for page in (ROOT / "docs" / "decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_python_block_compiles(block: Block) -> None:
    top_level = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    compile(block.text, str(block), "exec", flags=top_level | ast.PyCF_ONLY_AST)


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_blocks_import_only_what_is_public(block: Block) -> None:
    tree = compile(
        block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    )
    rooms = ("conformance", "crashtest", "faults", "services")
    deep = {f"eventbus.testing.{room}" for room in rooms}
    for node in ast.walk(tree):
        modules = (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [each.name for each in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        for module in modules:
            ours = module.split(".")[0] == "eventbus"
            assert not ours or module.count(".") < 2 or module in deep, f"{block}: {module}"


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_what_is_marked_runs_and_prints_what_the_page_says(page: Path, tmp_path: Path) -> None:
    found = list(blocks(page))
    for block in found:
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    script = "\n".join(block.text for block in found if "run" in block.marks)
    if script:
        (tmp_path / "page.py").write_text(script, encoding="utf-8")
        expected = "".join(block.text for block in found if "output" in block.marks)
        assert run(tmp_path, "-W", "error", "page.py") == expected
    if list(tmp_path.glob("test_*.py")):
        run(tmp_path, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider")


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_that_is_mentioned_exists_with_its_flags(page: Path) -> None:
    for line in commands(page):
        words = [word for word in shlex.split(line) if word != "…"]
        command, rest = find(words[1:])
        known = GLOBAL | {name for each in command.params for name in each.opts}
        for word in rest:
            if word.startswith("-") and not word[1:].isdecimal() and word != "-":
                assert word.partition("=")[0] in known, f"{name(page)}: {line}"


def find(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words lead to, and what follows; a word that leads nowhere fails."""
    command: click.Command = eventbus
    ctx = click.Context(eventbus, info_name="eventbus")
    while words and isinstance(command, click.Group):
        if words[0].startswith("-") or words[0].isupper():  # a flag, or a placeholder
            break
        following = command.get_command(ctx, words[0])
        assert following is not None, f"{command.name} has no command {words[0]!r}"
        command, words = following, words[1:]
    return command, words
