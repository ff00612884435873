"""Whether one schema reads what another one writes."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from eventbus.cli.compatibility import breaks


class Tree(TypedDict):
    name: str
    below: "list[Tree]"


class Forest(TypedDict):
    name: str
    below: "list[Forest]"
    height: int


def read_by(reader: Any, writer: Any) -> list[str]:
    """The kinds of what the reader refuses."""
    reads = TypeAdapter(reader).json_schema(mode="validation")
    writes = TypeAdapter(writer).json_schema(mode="serialization")
    return [f"{one.kind} {one.path}".strip() for one in breaks(reads, writes)]


@pytest.mark.parametrize(
    ("wider", "narrower"),
    [
        (float, int),
        (int | None, int),
        (int | str, str),
        (Any, int),
        (str, Literal["a"]),
        (Literal["a", "b"], Literal["a"]),
        (Annotated[int, Field(ge=1)], Annotated[int, Field(gt=1)]),
        (Annotated[int, Field(le=9)], Annotated[int, Field(lt=9)]),
        (Annotated[str, Field(max_length=5)], Annotated[str, Field(max_length=4)]),
        (Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=2)]),
        (str, Annotated[str, Field(pattern="^a")]),
        (list[float], list[int]),
        (dict[str, float], dict[str, int]),
        (tuple[float, str], tuple[int, str]),
    ],
)
def test_the_wider_reads_the_narrower_and_never_the_other_way(wider: Any, narrower: Any) -> None:
    assert read_by(wider, wider) == []
    assert read_by(narrower, narrower) == []
    assert read_by(wider, narrower) == []
    assert [line.split()[0] for line in read_by(narrower, wider)] == ["narrowed"]


def test_a_recursive_type_is_compared_once() -> None:
    assert read_by(Tree, Tree) == []
    assert read_by(Tree, Forest) == []
    assert read_by(Forest, Tree) == ["absent height"]
