"""The keys of personal data: one per subject, whose row outlives it."""
# ruff: noqa: D102, S101 - a suite: names are sentences, it asserts

import asyncio
import os
from contextlib import suppress
from dataclasses import replace

import pytest

from eventbus.sealing import Key, Subject, sealed_as_a_whole
from eventbus.storage import Storage
from eventbus.storage.events import Append, Snapshot
from eventbus.storage.subject_keys import Shredded, SubjectKey
from eventbus.testing.conformance.samples import some_messages, unique


class SubjectKeySuite:
    """Subclass it with a fixture `storage`: an entered storage."""

    async def test_what_is_added_is_found_by_its_id_and_by_its_subject(
        self, storage: Storage
    ) -> None:
        key, other = _key(), _key()
        await _add(storage, key, other)
        async with storage.transaction() as tx:
            assert list(await tx.subject_keys.find([key.id])) == [key]
            assert list(await tx.subject_keys.standing([key.subject])) == [key]
            assert await tx.subject_keys.find([os.urandom(16)]) == []
            both = await tx.subject_keys.find([key.id, other.id])
        assert sorted(both, key=_id) == sorted([key, other], key=_id)

    async def test_the_first_key_of_a_subject_stays(self, storage: Storage) -> None:
        key, other = _key(), _key()
        await _add(storage, key)
        found = await _add(storage, _key(key.subject), other)
        assert {one.id for one in found} == {key.id, other.id}
        assert await _standing(storage, key.subject) == key

    async def test_what_this_transaction_made_may_yet_be_rolled_back(
        self, storage: Storage
    ) -> None:
        key, stands = _key(), _key()
        await _add(storage, stands)
        async with storage.transaction() as tx:
            found = {one.id: one.kept for one in await tx.subject_keys.add([key])}
            looked = await tx.subject_keys.standing([key.subject, stands.subject])
            found_by_id = await tx.subject_keys.find([key.id, stands.id])
        assert found == {key.id: False}
        for rows in (looked, found_by_id):
            assert {one.id: one.kept for one in rows} == {key.id: False, stands.id: True}
        assert (await _standing(storage, key.subject)).kept

    async def test_a_rolled_back_key_was_never_there(self, storage: Storage) -> None:
        key, again = _key(), _key()
        async with storage.transaction() as tx:
            with suppress(LookupError):
                async with tx.savepoint():
                    await tx.subject_keys.add([key])
                    raise LookupError
            assert await tx.subject_keys.standing([key.subject]) == []
            await tx.subject_keys.add([_key(key.subject, again.id)])
        assert (await _standing(storage, key.subject)).id == again.id

    async def test_two_that_add_a_subject_at_once_get_one_key(self, storage: Storage) -> None:
        subjects = [_subject() for _ in range(5)]

        async def add() -> list[bytes]:
            found = await _add(storage, *[_key(each) for each in subjects])
            return sorted(one.id for one in found)

        answers = await asyncio.gather(*[add() for _ in range(4)])
        assert len(answers[0]) == 5
        assert answers == [answers[0]] * 4

    async def test_a_shredded_key_is_gone_and_its_row_stays(self, storage: Storage) -> None:
        key = _key()
        await _add(storage, key)
        shredded = await _shred(storage, key.subject)
        assert (shredded.subject, shredded.new) == (key.subject, True)
        row = await _standing(storage, key.subject)
        assert (row.id, row.wrapped) == (key.id, None)
        async with storage.transaction() as tx:
            (found,) = await tx.subject_keys.find([key.id])
        assert found.wrapped is None

    async def test_no_key_follows_a_shredded_one(self, storage: Storage) -> None:
        key = _key()
        await _add(storage, key)
        await _shred(storage, key.subject)
        (found,) = await _add(storage, _key(key.subject))
        assert (found.id, found.wrapped) == (key.id, None)

    async def test_who_had_no_key_stays_forgotten_too(self, storage: Storage) -> None:
        subject = _subject()
        assert (await _shred(storage, subject)).new
        (found,) = await _add(storage, _key(subject))
        assert found.wrapped is None

    async def test_shredded_again_nothing_changes(self, storage: Storage) -> None:
        key = _key()
        await _add(storage, key)
        first = await _shred(storage, key.subject)
        again = await _shred(storage, key.subject)
        assert again == Shredded(subject=key.subject, at=first.at, new=False, snapshots=0)

    async def test_a_rolled_back_shred_left_the_key(self, storage: Storage) -> None:
        key = _key()
        await _add(storage, key)
        with suppress(LookupError):
            async with storage.transaction() as tx:
                await tx.subject_keys.shred(key.subject, actor="a")
                raise LookupError
        assert await _standing(storage, key.subject) == key

    async def test_a_subject_is_of_its_tenant(self, storage: Storage) -> None:
        name = unique("customer")
        one, other = Subject("t1", name), Subject("t2", name)
        await _add(storage, _key(one), _key(other))
        await _shred(storage, one)
        assert (await _standing(storage, one)).wrapped is None
        assert (await _standing(storage, other)).wrapped is not None

    @pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
    async def test_the_snapshots_that_it_was_part_of_go_with_it(
        self, storage: Storage, *, first: bool
    ) -> None:
        mine, others = _key(), _key()
        await _add(storage, mine, others)
        keys = [mine, others] if first else [others, mine]
        both = await _snapshot(storage, sealed_as_a_whole(b"{}", [_open(key) for key in keys]))
        other = await _snapshot(storage, sealed_as_a_whole(b"{}", [_open(others)]))
        plain = await _snapshot(storage, b'{"id": "' + mine.id.hex().encode() + b'"}')
        assert (await _shred(storage, mine.subject)).snapshots == 1
        assert [await _has_snapshot(storage, each) for each in (both, other, plain)] == [
            False,
            True,
            True,
        ]

    async def test_who_is_forgotten_is_listed_in_one_order(self, storage: Storage) -> None:
        tenant = unique("t")
        subjects = [Subject(tenant, name) for name in ("a", "b", "B", "ä")]
        await _add(storage, *[_key(each) for each in (*subjects, Subject(tenant, "c"))])
        times = {each: (await _shred(storage, each)).at for each in subjects}
        listed: list[Shredded] = []
        after = Subject(tenant, "")
        while page := await _shredded(storage, after, limit=3):
            listed += [one for one in page if one.subject.tenant == tenant]
            after = page[-1].subject
        assert [one.subject.name for one in listed] == ["B", "a", "b", "ä"]
        assert {one.subject: one.at for one in listed} == times

    async def test_what_stands_is_listed_in_one_order(self, storage: Storage) -> None:
        tenant = unique("t")
        keys = [_key(Subject(tenant, name)) for name in ("", "a", "b", "B", "ä")]
        gone = _key(Subject(tenant, "aa"))
        await _add(storage, *keys, gone)
        await _shred(storage, gone.subject)
        listed: list[SubjectKey] = []
        after: SubjectKey | None = None
        while page := await _listed(storage, after, limit=2):
            listed += [one for one in page if one.subject.tenant == tenant]
            after = page[-1]
        assert listed == sorted(keys, key=lambda key: key.subject.name.encode())

    async def test_a_subject_without_a_name_is_listed(self, storage: Storage) -> None:
        (key,) = await _add(storage, _key(Subject("", "")))
        assert [one.id for one in await _listed(storage, None, limit=1)] == [key.id]
        assert key.id not in [one.id for one in await _listed(storage, key, limit=1000)]

    async def test_a_rewrapped_key_stands_under_its_id(self, storage: Storage) -> None:
        key, other = _key(), _key()
        await _add(storage, key, other)
        assert await _rewrap(storage, (key, b"anew")) == 1
        assert await _standing(storage, key.subject) == replace(key, wrapped=b"anew")
        assert await _standing(storage, other.subject) == other

    async def test_what_changed_since_it_was_read_is_not_rewrapped(self, storage: Storage) -> None:
        rewrapped, gone, stands = keys = [_key(), _key(), _key()]
        await _add(storage, *keys)
        await _rewrap(storage, (rewrapped, b"first"))
        await _shred(storage, gone.subject)
        assert await _rewrap(storage, *[(key, b"second") for key in keys]) == 1
        found = [(await _standing(storage, key.subject)).wrapped for key in keys]
        assert found == [b"first", None, b"second"]
        assert await _rewrap(storage, (stands, b"third")) == 0

    async def test_keys_are_rewrapped_from_both_ends_at_once(self, storage: Storage) -> None:
        keys = [_key() for _ in range(200)]
        await _add(storage, *keys)
        counts = await asyncio.gather(
            *[_rewrap(storage, *[(key, b"anew") for key in each]) for each in (keys, keys[::-1])]
        )
        assert sum(counts) == 200

    async def test_a_rolled_back_rewrap_left_the_key(self, storage: Storage) -> None:
        key = _key()
        await _add(storage, key)
        with suppress(LookupError):
            async with storage.transaction() as tx:
                await tx.subject_keys.rewrap([(key, b"anew")], actor="a")
                raise LookupError
        assert await _standing(storage, key.subject) == key

    async def test_any_is_one_that_opens(self, storage: Storage) -> None:
        key, gone = _key(), _key()
        await _add(storage, key, gone)
        await _shred(storage, gone.subject)
        async with storage.transaction() as tx:
            found = await tx.subject_keys.any()
        assert found is not None
        assert found.wrapped is not None


def _subject() -> Subject:
    return Subject("", unique("customer"))


def _key(subject: Subject | None = None, id: bytes | None = None) -> SubjectKey:
    return SubjectKey(
        subject=subject or _subject(), id=id or os.urandom(16), wrapped=os.urandom(60)
    )


def _id(key: SubjectKey) -> bytes:
    return key.id


def _open(key: SubjectKey) -> Key:
    return Key(key.id, key.subject, b"k" * 32)


async def _add(storage: Storage, *keys: SubjectKey) -> list[SubjectKey]:
    async with storage.transaction() as tx:
        return list(await tx.subject_keys.add(keys))


async def _standing(storage: Storage, subject: Subject) -> SubjectKey:
    async with storage.transaction() as tx:
        (found,) = await tx.subject_keys.standing([subject])
    return found


async def _shred(storage: Storage, subject: Subject) -> Shredded:
    async with storage.transaction() as tx:
        return await tx.subject_keys.shred(subject, actor="operator", reason="asked")


async def _listed(storage: Storage, after: SubjectKey | None, *, limit: int) -> list[SubjectKey]:
    async with storage.transaction() as tx:
        return list(await tx.subject_keys.listed(after=after, limit=limit))


async def _rewrap(storage: Storage, *keys: tuple[SubjectKey, bytes]) -> int:
    async with storage.transaction() as tx:
        return await tx.subject_keys.rewrap(keys, actor="operator", reason="yearly")


async def _shredded(storage: Storage, after: Subject, *, limit: int) -> list[Shredded]:
    async with storage.transaction() as tx:
        return list(await tx.subject_keys.shredded(after=after, limit=limit))


async def _snapshot(storage: Storage, state: bytes) -> str:
    stream = unique("order")
    events = some_messages(1)
    async with storage.transaction() as tx:
        done = await tx.events.append(Append(stream=stream, messages=events, expected="absent"))
    snapshot = Snapshot(kind="k", schema_hash=b"h", version=1, position=done.position, state=state)
    async with storage.transaction() as tx:
        await tx.events.save_snapshot(stream, snapshot)
    return stream


async def _has_snapshot(storage: Storage, stream: str) -> bool:
    async with storage.transaction() as tx:
        loaded = await tx.events.load(stream, kind="k", schema_hash=b"h")
    return loaded.snapshot is not None
