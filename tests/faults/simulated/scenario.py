"""What a seed stands for, before its schedule."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from eventbus.testing.faults import (
    Conflict,
    Delay,
    Duplicate,
    Fault,
    Hang,
    LoseLease,
    LoseReply,
    Reorder,
    Unroutable,
    ZombieOwner,
)

KINDS: tuple[Callable[[], Fault], ...] = (
    Duplicate,
    Delay,
    partial(Hang, seconds=1.0),
    LoseReply,
    Reorder,
    Unroutable,
    ZombieOwner,
    Conflict,
    LoseLease,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What a seed stands for, before its schedule."""

    seed: int
    keys: int
    per_key: int
    style: str
    durable: bool  # the broker outlives its process
    lives: int
    drains: bool  # lives but the last end by a drain, not by a kill
    twins: bool  # lives overlap: several members of each group, several relays
    rate: float
    fail_rate: float
    poison: frozenset[tuple[str, int]]
    third: str  # the further group
    garbage: int
    pause: bool
    outage_seconds: float
    silent_publish: int  # the n-th publish of a relay never answers
    distant: bool  # the storage says that a statement is a round trip: batches without savepoints
    kinds: tuple[Callable[[], Fault], ...] = KINDS


def scenario_of(seed: int) -> Scenario:
    """Drawn by the seed."""
    draw = Random(seed)
    outage = draw.random() < 0.04
    keys = 12 if outage else draw.randint(1, 3)
    per_key = 2 if outage else draw.randint(2, 4)
    faulty = not outage
    durable = draw.random() < 0.5
    chosen = [(f"k{key}", seq) for key in range(keys) for seq in range(1, per_key + 1)]
    return Scenario(
        seed=seed,
        keys=keys,
        per_key=per_key,
        style=draw.choice(("log", "queue")),
        durable=durable,
        lives=1 if outage else draw.choice((1, 2, 2, 3)),
        drains=draw.random() < 0.2,
        twins=faulty and draw.random() < 0.3,
        rate=draw.choice((0.0, 0.01, 0.03, 0.06)) if faulty else 0.0,
        fail_rate=draw.choice((0.0, 0.1, 0.3)) if faulty else 0.0,
        poison=frozenset(draw.sample(chosen, 1)) if faulty and draw.random() < 0.3 else frozenset(),
        third=draw.choice(("", "outside", "loose")) if faulty else "",
        garbage=draw.choice((0, 0, 0, 1)) if faulty and durable else 0,
        pause=faulty and draw.random() < 0.1,
        outage_seconds=40.0 if outage else 0.0,
        silent_publish=draw.randint(1, 4) if faulty and draw.random() < 0.1 else 0,
        distant=draw.random() < 0.5,
    )
