"""What counts as seeing a mutant: the kinds that are named, alone or in groups of nothing else."""

import pytest

from tests.faults.seen import seen

WRONG, OTHER = AssertionError("wrong"), LookupError("another matter")


@pytest.mark.parametrize(
    "failure",
    [WRONG, ExceptionGroup("tasks", [WRONG]), ExceptionGroup("", [ExceptionGroup("", [WRONG])])],
)
def test_a_failure_of_a_kind_is_seen(failure: Exception) -> None:
    with seen(AssertionError):
        raise failure


@pytest.mark.parametrize("failure", [OTHER, ExceptionGroup("tasks", [WRONG, OTHER])])
def test_anything_else_comes_out(failure: Exception) -> None:
    with pytest.raises(type(failure)), seen(AssertionError):
        raise failure


def test_a_mutant_that_nobody_sees_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="seen by nobody"), seen(AssertionError):
        pass
