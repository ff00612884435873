"""Mutants of event sourcing: one seam each, with the test that must see it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from eventbus.pubsub.replay import ReplayContext
from eventbus.pubsub.unit_of_work import HandlerContext
from eventbus.sourcing import aggregate, attributes, log, reader, snapshots, state, tail
from eventbus.storage.events import Append
from tests.integration.sourcing import (
    test_aggregates,
    test_commands,
    test_log,
    test_replay,
    test_snapshots,
)
from tests.unit.sourcing import test_aggregate
from tests.unit.sourcing import test_snapshots as forms

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """A wrong seam, and who notices."""

    name: str
    patch: Patch
    test: Callable[..., Any]
    arguments: Mapping[str, object] = field(default_factory=dict)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """It is wrong inside the block."""
        with pytest.MonkeyPatch.context() as patching:
            self.patch(patching)
            yield


def instead(owner: Any, name: str, other: Any) -> Patch:
    """Replace an attribute that is there."""

    def patch(patching: pytest.MonkeyPatch) -> None:
        patching.setattr(owner, name, other)

    return patch


async def fold_nothing(self: Any, stream: str, folded: Any, error: Any, tx: Any) -> None:
    """Decides again on the same state, at the version the error tells."""
    folded.version = error.version


async def reload(self: Any, stream: str, folded: Any, error: Any, tx: Any) -> None:
    """Loads the whole stream anew."""
    again = await self.load(stream, tx)
    folded.state, folded.version = again.state, again.version


async def keep_nothing(self: Any, stream: str, tenant: str, tx: Any) -> None:
    """Takes no snapshot."""


def share(value: object) -> object:
    """No copy: every object has the same one."""
    return value


def apply_all(self: Any, event: Any) -> None:
    """Knows the class of an event itself only, no base class."""
    if name := self.__applies__.get(type(event)):
        self._changing = True
        getattr(self, name)(event)
        self._changing = False


FOLD = state.Folding._fold


async def decode_all(self: Any, folded: Any, recorded: Sequence[Any], tx: Any) -> None:
    """Decodes every event, whoever applies it."""
    for one in recorded:
        tx.decode(one.message)
    await FOLD(self, folded, recorded, tx)


def record_only(**fields: Any) -> Append:
    """Publishes nothing."""
    return replace(Append(**fields), publish=())


class OwnTail(tail.Tail):
    """A task for each follower."""

    def followed(self) -> Any:
        return tail.Tail(self._storage).followed()

    async def beyond(self, *_: Any) -> Any:
        other = tail.Tail(self._storage)
        async with other.followed():
            return await other.beyond(None)


class OneServer(tail.Tail):
    """Does not look whether the server is another one."""

    async def beyond(self, position: Any, server: Any = None) -> Any:
        while self._found is None or (position is not None and self._found.bound <= position):
            await self._news.wait()
        return self._found


async def append_in_earnest(
    self: Any, stream: str, events: Sequence[Any], *, expected: Any, publish: bool = True
) -> Any:
    """Keeps what a replay appends."""
    return await HandlerContext.append(self, stream, events, expected=expected, publish=publish)


MUTANTS = [
    Mutant(
        "decides again without what came between",
        instead(state.Folding, "catch_up", fold_nothing),
        test_commands.test_what_came_between_may_change_the_decision,
    ),
    Mutant(
        "loads anew after a conflict",
        instead(state.Folding, "catch_up", reload),
        test_commands.test_after_a_conflict_it_folds_what_came_between_and_decides_again,
    ),
    Mutant(
        "takes no snapshot",
        instead(state.Folding, "keep", keep_nothing),
        test_snapshots.test_a_snapshot_is_taken_when_so_many_events_were_read,
    ),
    Mutant(
        "every schema has one hash",
        instead(snapshots, "schema_of", lambda *_: {}),
        forms.test_another_schema_has_another_hash,
    ),
    Mutant(
        "keeps what does not come back",
        instead(snapshots, "comes_back", lambda *_: True),
        forms.test_a_state_that_would_not_come_back_is_not_kept,
        {"kind": float, "state": float("nan")},
    ),
    Mutant(
        "forgets attributes that are not declared",
        instead(attributes, "values_of", lambda one: {"cents": 0}),
        forms.test_the_attributes_of_an_aggregate_come_back,
    ),
    Mutant(
        "aggregates share their defaults",
        instead(aggregate, "deepcopy", share),
        test_aggregate.test_each_object_begins_with_values_of_its_own,
    ),
    Mutant(
        "attributes change by anybody",
        instead(aggregate.Aggregate, "__setattr__", object.__setattr__),
        test_aggregate.test_an_attribute_is_changed_by_events_only,
    ),
    Mutant(
        "no base class is applied",
        instead(aggregate.Aggregate, "_apply", apply_all),
        test_aggregate.test_a_base_class_is_applied_to_what_nothing_nearer_applies_to,
    ),
    Mutant(
        "decodes what nobody applies",
        instead(state.Folding, "_fold", decode_all),
        test_aggregates.test_what_it_does_not_apply_it_does_not_decode,
    ),
    Mutant(
        "an append that publishes nothing",
        instead(log, "Append", record_only),
        test_log.test_an_append_publishes_what_it_records,
    ),
    Mutant(
        "a tail for each subscription",
        instead(reader, "Tail", OwnTail),
        test_log.test_all_subscriptions_share_one_tail_and_the_last_one_ends_it,
    ),
    Mutant(
        "a bound outlives its server",
        instead(reader, "Tail", OneServer),
        test_log.test_after_a_crash_of_the_server_a_subscription_goes_on_after_its_last_event,
    ),
    Mutant(
        "a flow is its first event",
        instead(reader, "correlation_of", lambda message: message.id),
        test_log.test_a_flow_is_traced_and_an_event_is_found,
    ),
    Mutant(
        "a replay publishes",
        instead(ReplayContext, "_add", HandlerContext._add),
        test_replay.test_rows_are_written_and_nothing_leaves,
    ),
    Mutant(
        "a replay appends",
        instead(ReplayContext, "append", append_in_earnest),
        test_replay.test_rows_are_written_and_nothing_leaves,
    ),
]
