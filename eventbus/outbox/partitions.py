"""Fair share of the 64 partition leases among live relays; pure."""

from collections.abc import Sequence

from eventbus.storage.leases import Lease
from eventbus.storage.outbox import PARTITIONS

PREFIX = "outbox/"
NAMES = tuple(f"{PREFIX}{number:02d}" for number in range(PARTITIONS))


def partition_number(lease: Lease) -> int:
    """The partition that a lease of this room stands for."""
    return int(lease.name.removeprefix(PREFIX))


def fair_share(relays: int) -> int:
    """How many partitions each of so many live relays may hold.

    The ceiling, so that none is left.
    """
    return -(-PARTITIONS // max(1, relays))


def surplus(held: Sequence[Lease], relays: int) -> Sequence[Lease]:
    """What a relay gives back after its batch.

    What it holds above its share, the last ones first.
    """
    return list(held)[fair_share(relays) :]


def wanted(held: Sequence[Lease], relays: int) -> tuple[Sequence[str], int]:
    """The names to ask for, and how many of them at most; nothing is taken from the living."""
    mine = {lease.name for lease in held}
    return [name for name in NAMES if name not in mine], max(0, fair_share(relays) - len(mine))
