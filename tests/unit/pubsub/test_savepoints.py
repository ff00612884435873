"""Which batches go without savepoints, and for how long none does after a failure."""

from types import SimpleNamespace
from typing import Any

import pytest

from eventbus.pubsub.savepoints import CAREFUL_MESSAGES, Savepoints
from eventbus.storage import StorageCapabilities

DISTANT = StorageCapabilities(durable=True, shared=True, distant=True)
NEAR = StorageCapabilities(durable=True, shared=False)


def calls(amount: int, **handler: bool) -> Any:
    """Of a handler that gains, but for what is told otherwise."""
    kind = {"plain": True, "takes_context": True, "batch": False, **handler}
    route = SimpleNamespace(handlers=[SimpleNamespace(**kind)], batches=None)
    return [SimpleNamespace(wrong=None, route=route) for _ in range(amount)]


def test_a_batch_on_a_server_goes_without() -> None:
    assert not Savepoints(DISTANT).needed(calls(50))


def test_in_the_process_they_cost_nothing_and_stay() -> None:
    assert Savepoints(NEAR).needed(calls(50))


@pytest.mark.parametrize(
    "batch",
    [
        calls(1),
        calls(9, plain=False),
        calls(9, takes_context=False),
        calls(9, batch=True),
        [*calls(9), SimpleNamespace(wrong=ValueError("no JSON"), route=calls(1)[0].route)],
        [SimpleNamespace(wrong=None, route=SimpleNamespace(handlers=[], batches=object()))] * 9,
    ],
    ids=["one message", "command", "without ctx", "batch handler", "not decoded", "sagas"],
)
def test_what_gains_nothing_keeps_them(batch: Any) -> None:
    assert Savepoints(DISTANT).needed(batch)


def test_after_a_failure_the_next_thousand_messages_have_them() -> None:
    savepoints = Savepoints(DISTANT)
    with pytest.raises(ZeroDivisionError), savepoints.spared():
        raise ZeroDivisionError
    with_them = 0
    while savepoints.needed(calls(50)):
        with_them += 50
    assert with_them == CAREFUL_MESSAGES


def test_a_batch_that_went_well_changes_nothing() -> None:
    savepoints = Savepoints(DISTANT)
    with savepoints.spared():
        pass
    assert not savepoints.needed(calls(50))
