"""README and docs as data: pages, their fenced blocks, their links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
FILE_NAME = re.compile(r"# ([a-z_]+\.(?:py|toml))\n")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    ```python``` is compiled, ```python run``` is executed; one that begins with a comment like
    `# app.py` is that file. ```text output``` is what the page's `run` blocks print.
    """

    page: Path
    line: int
    language: str
    marks: tuple[str, ...]
    text: str

    @property
    def file(self) -> str | None:
        found = FILE_NAME.match(self.text)
        return None if found is None else found[1]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        language, *marks = found[2].split() or [""]
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, language, tuple(marks), found[3])


def prose(page: Path) -> str:
    """Without fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    return LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them."""
    made = (re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(prose(page)))
    return {title.strip().replace(" ", "-") for title in made}


def commands(page: Path) -> Iterator[str]:
    """Every mention of the command line: in shell blocks, and in code spans of the text."""
    for block in blocks(page):
        lines = block.text.replace("\\\n", " ").splitlines()
        if block.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        if block.language in {"sh", "console"}:
            for line in lines:
                yield from _calls(line)
    for span in CODE.findall(prose(page)):
        yield from _calls(span)


def _calls(line: str) -> Iterator[str]:
    for part in re.split(r"\s(?:&&|\||#)\s", line):
        words = part.strip()
        words = re.sub(r"^(?:[A-Z_]+=\S* )+", "", words)
        if words == "eventbus" or words.startswith("eventbus "):
            yield words
