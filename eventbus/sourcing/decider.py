"""Decider: what a stream means and what may happen to it, as three pure functions (E1)."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from eventbus.event import Event

S = TypeVar("S")
C_contra = TypeVar("C_contra", contravariant=True)


class Decider(Protocol[C_contra, S]):
    """Pure: the same answer whenever it is asked, and no argument is changed.

    A decision is taken again after a conflict, and a state is folded again whenever it is needed.
    What a decision needs from outside, a time or a price, stands in the command.
    """

    def initial(self) -> S:
        """The state of a stream without events."""
        ...

    def decide(self, command: C_contra, state: S) -> Sequence[Event]:
        """What happens; nothing: an empty sequence. An exception refuses the command."""
        ...

    def evolve(self, state: S, event: Event) -> S:
        """The state after an event; of one that does not matter: `state`."""
        ...
