"""`model_copy` of a read model: what pydantic's answers, whatever the model is made of."""

import copy
import pickle
from functools import cached_property
from typing import Any, Self

import pytest
from pydantic import BaseModel, PrivateAttr, ValidationError

from eventbus.sourcing import ReadModel


class Plain(ReadModel, table="plain", key="name"):
    name: str
    sold: int = 0
    tags: tuple[str, ...] = ()
    more: list[int] = []  # noqa: RUF012 - pydantic copies it

    @cached_property
    def doubled(self) -> int:
        return self.sold * 2


class Private(ReadModel, table="private", key="name"):
    name: str
    sold: int = 0
    _seen: list[int] = PrivateAttr(default_factory=list[int])


class Open(ReadModel, table="open", key="name", extra="allow"):
    name: str
    sold: int = 0


class Own(ReadModel, table="own", key="name"):
    name: str
    sold: int = 0

    def __copy__(self) -> Self:
        copied = super().__copy__()
        copied.__dict__["name"] = "by my own way"
        return copied


class Child(Private, table="child", key="name"):
    cents: int = 0


MODELS = [Plain, Private, Open, Own, Child]
UPDATES: list[dict[str, Any] | None] = [None, {}, {"sold": 1}, {"name": "b"}, {"other": 1}]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("model", MODELS)
def test_it_is_what_pydantic_answers(
    model: type[Any], update: dict[str, Any] | None, *, deep: bool
) -> None:
    row = model(name="a")
    if isinstance(row, Private):
        row._seen.append(7)
    if isinstance(row, Plain):
        assert row.doubled == 0  # kept with the row from now on
        copied = row.model_copy(update=update, deep=deep)
        assert (copied.more is row.more) is not deep
    before = copy.deepcopy(row)
    ours = row.model_copy(update=update, deep=deep)
    theirs = BaseModel.model_copy(row, update=update, deep=deep)
    assert type(ours) is type(theirs) is model
    assert ours == theirs
    assert _inside(ours) == _inside(theirs)
    assert _inside(row) == _inside(before)
    assert repr(ours) == repr(theirs)


def test_a_copy_of_a_copy_says_which_fields_were_set() -> None:
    first = Plain(name="a")
    second = first.model_copy(update={"sold": 1})
    third = second.model_copy(update={"sold": 2})
    fourth = third.model_copy(update={"tags": ("x",)})
    rows = (first, second, third, fourth)
    assert [sorted(row.model_fields_set) for row in rows] == [
        ["name"],
        ["name", "sold"],
        ["name", "sold"],
        ["name", "sold", "tags"],
    ]
    assert [row.sold for row in rows] == [0, 1, 2, 2]


def test_a_copy_changes_nothing_of_its_original() -> None:
    row = Plain(name="a")
    row.model_copy(update={"sold": 1})
    assert (row.sold, row.model_fields_set) == (0, {"name"})


def test_a_copy_is_a_row_like_any_other() -> None:
    row = Plain(name="a").model_copy(update={"sold": 3})
    assert pickle.loads(pickle.dumps(row)) == row
    assert copy.deepcopy(row) == row
    assert row.model_dump(exclude_unset=True) == {"name": "a", "sold": 3}
    with pytest.raises(ValidationError, match="frozen"):
        row.sold = 4  # type: ignore[misc]


def _inside(row: BaseModel) -> tuple[Any, ...]:
    return (
        row.__dict__,
        row.model_fields_set,
        row.__pydantic_extra__,
        getattr(row, "__pydantic_private__", None),
    )
