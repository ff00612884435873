"""CommandHandler: load, decide, append and publish, all in the caller's transaction (E1)."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

from eventbus.errors import ConcurrencyError, SourcingError
from eventbus.event import Event
from eventbus.handler import UnitOfWork
from eventbus.sourcing.decider import Decider
from eventbus.sourcing.snapshots import Every, TypeForm, due_every, state_type
from eventbus.sourcing.state import Folding, kind_of

C = TypeVar("C")


class CommandHandler(Generic[C]):
    """Decides a command on the state of its stream; what happens is recorded and published.

    The events are published under the ids they are recorded under. When somebody else has appended
    in between, what they appended is folded into the state, and `decide` is asked again.

    Args:
        decider: pure.
        stream: the stream of a command, `category-id`.
        retries: how often it decides again after a conflict.
        snapshot: due every so many events (0: never), or by (state, events since the last). It is
            taken beside the commands, in a transaction of its own; one whose schema differs from
            the state's is passed over.

    Raises:
        SourcingError: EB4201, `retries` or `snapshot` is negative.
    """

    def __init__(
        self,
        decider: Decider[C, Any],
        *,
        stream: Callable[[C], str],
        retries: int = 3,
        snapshot: int | Callable[[Any, int], bool] = 100,
    ) -> None:
        self._decider = decider
        self._stream = stream
        self._retries = retries
        self._snapshot: Every = snapshot
        if retries < 0 or (not callable(snapshot) and snapshot < 0):
            raise _negative(type(decider).__qualname__)

    async def __call__(self, command: C, tx: UnitOfWork) -> Sequence[Event]:
        """What was decided: recorded and published with `tx`, or nothing at all.

        Raises:
            ConcurrencyError: EB5003, others were first each time; nothing was written.
            StreamClosedError: EB5014, the stream is archived or tombstoned.
            SourcingError: EB4203, the state cannot be kept in snapshots.
            CodecError: an event of the stream cannot be read.
            NoTransactionError: EB4105, `tx` has no transaction.
        """
        stream = self._stream(command)
        folded = await self._folding.load(stream, tx)
        tries = 0
        while events := tuple(self._decider.decide(command, folded.state)):
            try:
                await tx.append(stream, events, expected=folded.version)
            except ConcurrencyError as error:
                if tries == self._retries:
                    raise
                tries += 1
                await self._folding.catch_up(stream, folded, error, tx)
            else:
                break
        return events

    @cached_property
    def _folding(self) -> Folding[Any]:
        """On first use: by then every name in its annotations is defined."""
        decider = self._decider
        owner = type(decider).__qualname__
        return Folding(
            kind=kind_of(type(decider)),
            begin=lambda _: decider.initial(),
            evolve=decider.evolve,
            form=None if self._snapshot == 0 else TypeForm(state_type(decider), owner),
            due=due_every(self._snapshot),
        )


def _negative(decider: str) -> SourcingError:
    return SourcingError(
        "EB4201",
        "retries and snapshot count from 0",
        where=f"CommandHandler of {decider}",
        why="less than none means nothing",
        next="leave them out, or say 0: no second decision, no snapshots",
    )
