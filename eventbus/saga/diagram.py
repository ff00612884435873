"""A definition or one saga as text that draws it: Mermaid, DOT, SVG; nothing is fetched."""

from collections.abc import Callable
from itertools import groupby
from typing import Literal

from eventbus.saga.definition import Definition, StepSpec
from eventbus.saga.drawing import COLOURS, Edge, Graph, Node, Shape
from eventbus.saga.drawing_states import graph_of_states
from eventbus.saga.instance import Instance, Steps
from eventbus.saga.svg import svg

Format = Literal["mermaid", "dot", "svg"]


def diagram(
    definition: Definition,
    format: Format = "mermaid",
    *,
    saga: Instance | None = None,
    steps: Steps = (),
) -> str:
    """The drawing as text.

    Args:
        definition: what is drawn.
        format: Mermaid and DOT are for renderers, SVG is the picture itself.
        saga: overlay this one.
        steps: its step log.
    """
    graph = graph_of(definition, saga, steps)
    renderers: dict[Format, Callable[[Graph], str]] = {"mermaid": mermaid, "dot": dot, "svg": svg}
    return renderers[format](graph)


def graph_of(definition: Definition, saga: Instance | None = None, steps: Steps = ()) -> Graph:
    """What is drawn: the steps, the way back, and the two ends."""
    if "transitions" in definition.shape:
        return graph_of_states(definition, saga)
    return _Drawing(definition, saga, steps).graph()


class _Drawing:
    def __init__(self, definition: Definition, saga: Instance | None, steps: Steps) -> None:
        self._definition = definition
        self._saga = saga
        self._forward = {row.name: row.status for row in steps if row.phase == "forward"}
        self._undo = {row.name: row.status for row in steps if row.phase == "undo"}
        self._graph = Graph(f"{definition.saga} v{definition.version}")

    def graph(self) -> Graph:
        starts = " · ".join(sorted(event.__name__ for event in self._definition.starts))
        begun = "succeeded" if self._forward else None
        self._graph.nodes.append(Node("start", (starts,), "start", 0, 0, begun))
        before, column = ["start"], 1
        groups = [list(g) for _, g in groupby(self._definition.steps, key=_group)]
        for group in groups:
            for row, spec in enumerate(group):
                self._step(spec, column, row)
                self._edges(before, spec.name)
            before, column = [spec.name for spec in group], column + 1
        self._graph.nodes.append(self._end("completed", column, 0))
        for name in before:
            self._graph.edges.append(Edge(name, "completed"))
        self._way_back(max((len(group) for group in groups), default=1))
        return self._graph

    def _step(self, spec: StepSpec, column: int, row: int) -> None:
        what = spec.command or spec.event or spec.replies
        second = what.__name__ if what is not None else spec.kind
        if spec.pivot:
            second += " · pivot"
        status = self._forward.get(spec.name)
        shape: Shape = "pivot" if spec.pivot else "step"
        self._graph.nodes.append(Node(spec.name, (spec.name, second), shape, column, row, status))

    def _edges(self, before: list[str], name: str) -> None:
        self._graph.edges.extend(Edge(each, name) for each in before)

    def _end(self, status: str, column: int, row: int) -> Node:
        here = self._saga is not None and self._saga.status == status
        return Node(status, (status,), "end", column, row, "succeeded" if here else None)

    def _way_back(self, row: int) -> None:
        """Undos stand below their steps; a refusal enters at the one of the step before."""
        back = "compensated"
        self._graph.nodes.append(self._end(back, 0, row))
        columns = {node.id: node.column for node in self._graph.nodes}
        for number, spec in enumerate(self._until_the_pivot()):
            undo = None if spec.undo is None else f"undo_{spec.name}"
            if (refused := _refusals(spec)) and spec.kind != "local":
                self._graph.edges.append(Edge(spec.name, back, refused, dashed=True))
            elif spec.kind == "local":
                self._graph.edges.append(Edge(spec.name, back, "Reject", dashed=True))
            if undo is not None:
                command = spec.undo_command
                second = command.__name__ if command is not None else spec.kind
                place = row + number % 2 if spec.parallel else row
                status = self._undo.get(spec.name)
                column = columns[spec.name]
                lines = (str(spec.undo), second)
                self._graph.nodes.append(Node(undo, lines, "undo", column, place, status))
                self._graph.edges.append(Edge(undo, back, dashed=True))
                if spec.kind != "local" and spec.on_unknown in {None, "compensate"}:
                    self._graph.edges.append(Edge(spec.name, undo, "unknown", dashed=True))
                back = undo

    def _until_the_pivot(self) -> list[StepSpec]:
        found: list[StepSpec] = []
        for spec in self._definition.steps:
            found.append(spec)
            if spec.pivot:
                break
        return found


def _group(spec: StepSpec) -> str:
    return f"parallel {spec.parallel}" if spec.parallel else f"step {spec.name}"


def _refusals(spec: StepSpec) -> str:
    names = [cls.__name__ for cls in (*spec.rejects, *spec.failures)]
    if spec.kind == "wait":
        names = ["not in time"] if spec.delay is None else []
    if spec.on_unknown == "resolve":
        names.append("cancelled")
    return " · ".join(names)


_MERMAID = {
    "start": ("((", "))"),
    "step": ("[", "]"),
    "pivot": ("{{", "}}"),
    "undo": ("[", "]"),
    "end": ("((", "))"),
    "state": ("(", ")"),
}


def mermaid(graph: Graph) -> str:
    """A flowchart."""
    lines = ["flowchart LR"]
    for node in graph.nodes:
        left, right = _MERMAID[node.shape]
        text = "<br/>".join(each.replace('"', "#quot;") for each in node.lines)
        lines.append(f'  {_id(node.id)}{left}"{text}"{right}')
    for edge in graph.edges:
        label = edge.label.replace('"', "#quot;")
        solid = f'-- "{label}" -->' if label else "-->"
        dashed = f'-. "{label}" .->' if label else "-.->"
        arrow = dashed if edge.dashed else solid
        lines.append(f"  {_id(edge.source)} {arrow} {_id(edge.target)}")
    used = sorted({node.status for node in graph.nodes if node.status is not None})
    lines += [f"  classDef {status} fill:{COLOURS[status]}" for status in used]
    lines += [f"  class {_id(n.id)} {n.status}" for n in graph.nodes if n.status is not None]
    return "\n".join(lines) + "\n"


_DOT = {
    "start": "circle",
    "step": "box",
    "pivot": "hexagon",
    "undo": "box",
    "end": "doublecircle",
    "state": "ellipse",
}


def dot(graph: Graph) -> str:
    """A digraph."""
    lines = [f"digraph {_quoted(graph.title)} {{", "  rankdir=LR"]
    for node in graph.nodes:
        options = [f"label={_quoted(chr(10).join(node.lines))}", f"shape={_DOT[node.shape]}"]
        if node.status is not None:
            options += ["style=filled", f"fillcolor={_quoted(COLOURS[node.status])}"]
        lines.append(f"  {_id(node.id)} [{', '.join(options)}]")
    for edge in graph.edges:
        options = [f"label={_quoted(edge.label)}"] if edge.label else []
        options += ["style=dashed"] if edge.dashed else []
        text = f" [{', '.join(options)}]" if options else ""
        lines.append(f"  {_id(edge.source)} -> {_id(edge.target)}{text}")
    return "\n".join([*lines, "}"]) + "\n"


def _id(name: str) -> str:
    return "n_" + "".join(each if each.isalnum() else "_" for each in name)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
