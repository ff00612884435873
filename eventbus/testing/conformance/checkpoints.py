"""Where projections stand: compared, set, fenced."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

from contextlib import suppress

import pytest

from eventbus.errors import LeaseLostError, StorageError
from eventbus.storage import Storage
from eventbus.storage.checkpoints import START
from eventbus.storage.events import Position
from eventbus.storage.leases import Lease
from eventbus.testing.conformance.samples import take, take_over, unique

PRINT = b"\x00types, filter, version"


class CheckpointSuite:
    """Subclass it with a fixture `storage`: an entered storage."""

    async def test_a_new_one_stands_at_the_start(self, storage: Storage) -> None:
        assert await _load(storage, unique("orders@1/0")) == START

    async def test_a_new_one_may_start_elsewhere_and_only_once(self, storage: Storage) -> None:
        name = unique("orders@1/0")
        async with storage.transaction() as tx:
            first = await tx.checkpoints.load(name, fingerprint=PRINT, start=Position(3))
            again = await tx.checkpoints.load(name, fingerprint=PRINT, start=Position(7))
        assert first == again == Position(3)

    async def test_what_is_saved_is_loaded(self, storage: Storage) -> None:
        name, lease = await _checkpoint(storage)
        await _save(storage, name, 5, after=0, lease=lease)
        assert await _load(storage, name) == Position(5)
        await _save(storage, name, 9, after=5, lease=lease)
        assert await _load(storage, name) == Position(9)

    async def test_several_saves_in_one_transaction(self, storage: Storage) -> None:
        name, lease = await _checkpoint(storage)
        async with storage.transaction() as tx:
            await tx.checkpoints.save(name, Position(1), after=START, lease=lease)
            await tx.checkpoints.save(name, Position(2), after=Position(1), lease=lease)
        assert await _load(storage, name) == Position(2)

    async def test_a_save_after_another_position_is_refused(self, storage: Storage) -> None:
        name, lease = await _checkpoint(storage)
        await _save(storage, name, 5, after=0, lease=lease)
        for after in (0, 4, 6):
            with pytest.raises(LeaseLostError) as caught:
                await _save(storage, name, 7, after=after, lease=lease)
            assert caught.value.code.startswith("EB52")
        assert await _load(storage, name) == Position(5)

    async def test_a_save_under_a_lost_lease_is_refused(self, storage: Storage) -> None:
        name, lost = await _checkpoint(storage)
        taken = await take_over(storage, lost)
        with pytest.raises(LeaseLostError):
            await _save(storage, name, 5, after=0, lease=lost)
        assert await _load(storage, name) == START
        await _save(storage, name, 5, after=0, lease=taken)

    async def test_a_save_of_what_was_never_loaded_is_refused(self, storage: Storage) -> None:
        name = unique("orders@1/0")
        lease = await take(storage, f"projection/{name}")
        with pytest.raises(LeaseLostError):
            await _save(storage, name, 5, after=0, lease=lease)
        assert await _load(storage, name) == START

    async def test_a_rolled_back_save_did_not_happen(self, storage: Storage) -> None:
        name, lease = await _checkpoint(storage)
        async with storage.transaction() as tx:
            with suppress(LookupError):
                async with tx.savepoint():
                    await tx.checkpoints.save(name, Position(5), after=START, lease=lease)
                    raise LookupError
            await tx.checkpoints.save(name, Position(3), after=START, lease=lease)
        assert await _load(storage, name) == Position(3)

    async def test_another_fingerprint_is_refused(self, storage: Storage) -> None:
        name, lease = await _checkpoint(storage)
        await _save(storage, name, 5, after=0, lease=lease)
        with pytest.raises(StorageError) as caught:
            await _load(storage, name, fingerprint=PRINT + b"2")
        assert caught.value.code == "EB5202"
        assert await _load(storage, name) == Position(5)

    async def test_another_fingerprint_is_accepted_knowingly(self, storage: Storage) -> None:
        name, lease = await _checkpoint(storage)
        await _save(storage, name, 5, after=0, lease=lease)
        async with storage.transaction() as tx:
            assert await tx.checkpoints.accept(name, fingerprint=PRINT + b"2") == 1
        assert await _load(storage, name, fingerprint=PRINT + b"2") == Position(5)
        with pytest.raises(StorageError):
            await _load(storage, name)

    @pytest.mark.parametrize("other", ["a%", "_", "A", "ab"])
    async def test_positions_are_those_of_names_with_the_prefix(
        self, storage: Storage, other: str
    ) -> None:
        place = unique("orders")
        names = [f"{place}/a@1/0", f"{place}/a@1/1", f"{place}/{other}@1/0"]
        for name in names:
            await _load(storage, name)
        lease = await take(storage, unique("projection"))
        await _save(storage, names[1], 4, after=0, lease=lease)
        async with storage.transaction() as tx:
            found = await tx.checkpoints.positions(f"{place}/a@")
            others = await tx.checkpoints.positions(f"{place}/{other}@")
        assert dict(found) == {names[0]: START, names[1]: Position(4)}
        assert dict(others) == {names[2]: START}

    async def test_only_what_is_beyond_is_put_back(self, storage: Storage) -> None:
        place = unique("orders")
        lease = await take(storage, unique("projection"))
        for number, position in enumerate((3, 9, 12)):
            name = f"{place}@{'12'[number // 2]}/{number}"
            await _load(storage, name)
            await _save(storage, name, position, after=0, lease=lease)
        async with storage.transaction() as tx:
            assert await tx.checkpoints.put_back(f"{place}@1/", to=Position(5)) == 1
            found = await tx.checkpoints.positions(f"{place}@")
        assert sorted(found.values()) == [3, 5, 12]


async def _checkpoint(storage: Storage) -> tuple[str, Lease]:
    name = unique("orders@1/0")
    await _load(storage, name)
    return name, await take(storage, f"projection/{name}")


async def _load(storage: Storage, name: str, *, fingerprint: bytes = PRINT) -> Position:
    async with storage.transaction() as tx:
        return await tx.checkpoints.load(name, fingerprint=fingerprint)


async def _save(storage: Storage, name: str, position: int, *, after: int, lease: Lease) -> None:
    async with storage.transaction() as tx:
        await tx.checkpoints.save(name, Position(position), after=Position(after), lease=lease)
