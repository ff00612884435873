"""FaultyTransport and FaultyStorage: any adapter, with the faults of a plan at its calls."""

from eventbus.testing.faults.plan import (
    POINTS,
    BreakKeyOrder,
    Conflict,
    Delay,
    DropConfirmed,
    Duplicate,
    Fail,
    Fault,
    FaultPlan,
    Hang,
    Hit,
    Kill,
    LoseLease,
    LoseReply,
    Reorder,
    Unroutable,
    ZombieOwner,
)
from eventbus.testing.faults.storage import FaultyStorage
from eventbus.testing.faults.subscription import Zombies
from eventbus.testing.faults.transport import FaultyTransport

__all__ = [
    "POINTS",
    "BreakKeyOrder",
    "Conflict",
    "Delay",
    "DropConfirmed",
    "Duplicate",
    "Fail",
    "Fault",
    "FaultPlan",
    "FaultyStorage",
    "FaultyTransport",
    "Hang",
    "Hit",
    "Kill",
    "LoseLease",
    "LoseReply",
    "Reorder",
    "Unroutable",
    "ZombieOwner",
    "Zombies",
]
