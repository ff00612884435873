"""A drawing before it has a form: places, arrows, colours."""

from dataclasses import dataclass, field
from typing import Literal

Shape = Literal["start", "step", "pivot", "undo", "end", "state"]


@dataclass(frozen=True, slots=True)
class Node:
    """A place in the drawing; `status` is that of the saga that is overlaid."""

    id: str
    lines: tuple[str, ...]
    shape: Shape
    column: int
    row: int
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """What leads from one place to the next; dashed: on the way back."""

    source: str
    target: str
    label: str = ""
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """A drawing before it has a form."""

    title: str
    nodes: list[Node] = field(default_factory=list[Node])
    edges: list[Edge] = field(default_factory=list[Edge])


COLOURS = {
    "succeeded": "#c8e6c9",
    "dispatched": "#fff59d",
    "unknown": "#ffcc80",
    "rejected": "#ef9a9a",
    "cancelled": "#ef9a9a",
    "failed": "#ef9a9a",
    "skipped": "#e0e0e0",
    "here": "#fff59d",
}
