"""The drawing of a process: its states, and what leads from one to the next."""

from collections import Counter
from typing import Any

from eventbus.saga.definition import Definition
from eventbus.saga.drawing import Edge, Graph, Node
from eventbus.saga.instance import Instance

_INITIAL = "initial"


def graph_of_states(definition: Definition, saga: Instance | None) -> Graph:
    """States stand as many columns from the start as transitions lead there at least."""
    shape: Any = definition.shape
    transitions: list[tuple[str, list[str], str | None]] = shape["transitions"]
    graph = Graph(f"{definition.saga} v{definition.version}")
    columns = _columns(transitions)
    rows: Counter[int] = Counter()
    for state in (_INITIAL, *shape["states"]):
        column = columns.get(state, 0)
        here = saga is not None and saga.state_name == state
        start = state == _INITIAL
        graph.nodes.append(
            Node(
                id=f"state_{state}",
                lines=(state,),
                shape="start" if start else "state",
                column=column,
                row=rows[column],
                status="here" if here else None,
            )
        )
        rows[column] += 1
    labels: dict[tuple[str, str], list[str]] = {}
    for what, when, to in transitions:
        for state in when:
            labels.setdefault((state, to or state), []).append(what)
    for (source, target), names in labels.items():
        graph.edges.append(Edge(f"state_{source}", f"state_{target}", " · ".join(names)))
    return graph


def _columns(transitions: list[tuple[str, list[str], str | None]]) -> dict[str, int]:
    columns, todo = {_INITIAL: 0}, [_INITIAL]
    while todo:
        here = todo.pop(0)
        for _, when, to in transitions:
            if here in when and to is not None and to not in columns:
                columns[to] = columns[here] + 1
                todo.append(to)
    return columns
