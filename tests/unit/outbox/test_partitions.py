"""Fair share of partitions, and waves: pure."""

from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from eventbus.message import Message
from eventbus.outbox.partitions import NAMES, fair_share, partition_number, surplus, wanted
from eventbus.outbox.relay import MAX_ATTEMPTS, delay_after, waves_of
from eventbus.storage.leases import Lease
from eventbus.storage.outbox import PARTITIONS, Outgoing, partition_of


def leases(names: Sequence[str]) -> list[Lease]:
    return [Lease(name, "me", 1) for name in names]


@given(st.integers(0, 200))
def test_the_shares_of_all_relays_cover_every_partition(relays: int) -> None:
    share = fair_share(relays)
    assert share * max(1, relays) >= PARTITIONS
    assert (share - 1) * max(1, relays) < PARTITIONS


@given(st.integers(1, 8), st.integers(1, 8))
def test_relays_that_come_and_go_converge_to_their_shares(before: int, after: int) -> None:
    held: list[list[Lease]] = [[] for _ in range(max(before, after))]
    for relays in (before, after):
        for gone in held[relays:]:
            gone.clear()
        for _ in range(3):
            for mine in held[:relays]:
                extra = surplus(mine, relays)
                mine[:] = mine[: len(mine) - len(extra)]
            for mine in held[:relays]:
                names, more = wanted(mine, relays)
                taken = {lease.name for each in held for lease in each}
                mine.extend(leases([name for name in names if name not in taken][:more]))
        owned = [lease.name for each in held[:relays] for lease in each]
        assert sorted(owned) == list(NAMES)
        assert max(len(each) for each in held[:relays]) <= fair_share(relays)


def test_names_and_numbers_of_partitions_fit() -> None:
    assert [partition_number(lease) for lease in leases(NAMES)] == list(range(PARTITIONS))
    assert partition_of("A-1") == partition_of("A-1") < PARTITIONS


keys = st.lists(st.sampled_from([None, "a", "b", "c"]), max_size=30)


@given(keys)
def test_a_wave_has_a_key_once_and_waves_keep_the_order_of_each_key(
    given_keys: list[str | None],
) -> None:
    rows = [
        Outgoing(
            partition=0,
            row=number,
            message=Message(
                id=str(number), type="a.b", source="/s", topic="a", payload=b"", key=key
            ),
            attempts=0,
        )
        for number, key in enumerate(given_keys)
    ]
    waves = waves_of(rows)
    assert sorted(row.row for wave in waves for row in wave) == list(range(len(rows)))
    for wave in waves:
        keyed = [row.message.key for row in wave if row.message.key is not None]
        assert len(keyed) == len(set(keyed))
    for key in "abc":
        order = [row.row for wave in waves for row in wave if row.message.key == key]
        assert order == sorted(order)


def test_a_refused_row_waits_longer_each_time_and_then_fails() -> None:
    random = Random(7)
    waits = [delay_after(attempt, random) for attempt in range(1, MAX_ATTEMPTS)]
    seconds = [wait.total_seconds() for wait in waits if wait is not None]
    assert len(seconds) == MAX_ATTEMPTS - 1
    assert all(
        0.8 * min(300, 2**n) <= second <= 1.2 * min(300, 2**n) for n, second in enumerate(seconds)
    )
    assert delay_after(MAX_ATTEMPTS, random) is None
