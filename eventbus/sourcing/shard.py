"""A share of one version of a projection: its lease, where it stands, which keys it holds back."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from eventbus.sourcing.definition import Definition
from eventbus.sourcing.read_model import Key, ReadModel
from eventbus.storage import Transaction
from eventbus.storage.events import Position
from eventbus.storage.leases import Lease
from eventbus.storage.projections import ProjectionVersion, Table, shadow_of

MOST_HELD = 1_000_000  # keys
MOST_KNOWN = 50_000  # rows of a shard in memory


@dataclass(slots=True)
class Shard:
    """Whoever holds the lease is the only one who moves it, and who parks and frees its keys."""

    version: ProjectionVersion
    number: int
    lease: Lease
    position: Position
    held: set[str] = field(default_factory=set[str])
    rows: dict[Key, ReadModel] = field(default_factory=dict[Key, ReadModel])  # as they stand

    @property
    def name(self) -> str:
        """Of its checkpoint."""
        return shard_name(self.version, self.number)

    @property
    def group(self) -> str:
        """What its failed events are parked under."""
        return f"projection:{self.name}"

    def remember(self, rows: Mapping[Key, ReadModel], gone: Iterable[Key]) -> None:
        """The last ones written stay known: nobody else writes them.

        Whoever's transaction fails afterwards forgets the shard, or calls `forget`.
        """
        known = self.rows
        for key in (*rows, *gone):
            known.pop(key, None)
        known.update(rows)
        if len(known) > MOST_KNOWN:
            for key in list(islice(known, len(known) - MOST_KNOWN)):
                del known[key]

    def forget(self, position: Position, held: set[str]) -> None:
        """A transaction was rolled back: it stands where it stood."""
        self.position, self.held = position, held
        self.rows.clear()


def shard_name(version: ProjectionVersion, number: int) -> str:
    """`orders@8/3`."""
    return f"{version.name}@{version.version}/{number}"


def lease_name(version: ProjectionVersion, number: int) -> str:
    """`projection/orders@8/3`."""
    return f"{lease_prefix(version)}{number}"


def lease_prefix(version: ProjectionVersion) -> str:
    """`projection/orders@8/`: of all shards."""
    return f"projection/{version.name}@{version.version}/"


def table_of_version(definition: Definition, version: ProjectionVersion) -> Table | None:
    """The live table, or the one beside it; None: the projection writes by itself."""
    if definition.rows is None:
        return None
    table = definition.rows.table
    return table if version.status == "active" else shadow_of(table, version.version)


async def loaded(
    tx: Transaction, definition: Definition, version: ProjectionVersion, lease: Lease
) -> Shard:
    """A shard whose lease was just taken: what it knows is read anew.

    Raises:
        StorageError: EB5202, the checkpoint is of other code, or of another database.
    """
    number = int(lease.name.rpartition("/")[2])
    position = await tx.checkpoints.load(
        shard_name(version, number), fingerprint=definition.fingerprint
    )
    shard = Shard(version, number, lease, position)
    shard.held = await loaded_keys(tx, shard)
    return shard


async def loaded_keys(tx: Transaction, shard: Shard) -> set[str]:
    """The rows and streams that wait."""
    return set(await tx.parking.keys(group=shard.group, limit=MOST_HELD))
