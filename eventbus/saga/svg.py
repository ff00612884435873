"""A drawing as an SVG picture: columns from left to right, the way back below."""

from collections.abc import Iterator
from xml.sax.saxutils import escape

from eventbus.saga.drawing import COLOURS, Edge, Graph, Node

_COLUMN, _ROW, _WIDTH, _HEIGHT, _MARGIN = 210, 96, 150, 48, 30  # pixels
_STYLE = (
    "text{font:12px sans-serif;text-anchor:middle}"
    ".label{font-size:10px;fill:#444}"
    "rect,polygon{fill:#fff;stroke:#333}"
    "path{fill:none;stroke:#333;marker-end:url(#arrow)}"
    ".dashed{stroke-dasharray:5 4}"
)


def svg(graph: Graph) -> str:
    """The picture: complete, without anything to fetch."""
    columns = max(node.column for node in graph.nodes) + 1
    rows = max(node.row for node in graph.nodes) + 1
    width = columns * _COLUMN + _MARGIN
    height = rows * _ROW + 2 * _MARGIN
    places = {node.id: _centre(node) for node in graph.nodes}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(graph.title)}</title><style>{_STYLE}</style>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" '
        'style="fill:#333;marker-end:none"/></marker></defs>',
    ]
    for edge in graph.edges:
        parts.extend(_edge(edge, places))
    for node in graph.nodes:
        parts.extend(_node(node))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _centre(node: Node) -> tuple[int, int]:
    x = _MARGIN + node.column * _COLUMN + _WIDTH // 2
    return x, _MARGIN + node.row * _ROW + _HEIGHT // 2


def _node(node: Node) -> Iterator[str]:
    x, y = _centre(node)
    fill = "" if node.status is None else f' style="fill:{COLOURS[node.status]}"'
    left, top = x - _WIDTH // 2, y - _HEIGHT // 2
    if node.shape == "pivot":
        right, low = left + _WIDTH, top + _HEIGHT
        points = (
            f"{left},{y} {left + 14},{top} {right - 14},{top} "
            f"{right},{y} {right - 14},{low} {left + 14},{low}"
        )
        yield f'<polygon points="{points}"{fill}/>'
    else:
        radius = _HEIGHT // 2 if node.shape in {"start", "end", "state"} else 4
        yield (
            f'<rect x="{left}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" rx="{radius}"{fill}/>'
        )
    first = y + 4 - 8 * (len(node.lines) - 1)
    for number, line in enumerate(node.lines):
        yield f'<text x="{x}" y="{first + 16 * number}">{escape(line)}</text>'


def _edge(edge: Edge, places: dict[str, tuple[int, int]]) -> Iterator[str]:
    (x1, y1), (x2, y2) = places[edge.source], places[edge.target]
    if x1 == x2 and y1 == y2:
        start, end = f"{x1 - 20} {y1 - _HEIGHT // 2}", f"{x1 + 20} {y1 - _HEIGHT // 2}"
        path = f"M{start}C{x1 - 40} {y1 - 60} {x1 + 40} {y1 - 60} {end}"
    elif x1 == x2:
        down = _HEIGHT // 2 if y2 > y1 else -_HEIGHT // 2
        path = f"M{x1} {y1 + down}L{x2} {y2 - down}"
    else:
        side = _WIDTH // 2 if x2 > x1 else -_WIDTH // 2
        path = f"M{x1 + side} {y1}L{x2 - side} {y2}"
    dashed = ' class="dashed"' if edge.dashed else ""
    yield f'<path d="{path}"{dashed}/>'
    if edge.label:
        x, y = (x1 + x2) // 2, (y1 + y2) // 2 - 4
        yield f'<text class="label" x="{x}" y="{y}">{escape(edge.label)}</text>'
