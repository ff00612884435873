"""The keys of personal data, made, read, kept for seconds, destroyed (E4)."""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from eventbus.codec import Registry
from eventbus.errors import ConfigurationError, PersonalDataError
from eventbus.sealing import (
    KEY_BYTES,
    Key,
    Keys,
    Subject,
    decrypted,
    encrypted,
    key_ids,
    require_cipher,
)
from eventbus.storage import Storage, Transaction
from eventbus.storage.subject_keys import SubjectKey

KEPT_SECONDS = 30.0  # with a batch that lasts as long, no key outlives its row by a minute
MOST_KEPT = 10_000
REWRAPPED = 500  # keys of a commit
LONGEST_SUBJECT_BYTES = 1000  # with the tenant's as many, both fit into one row of an index


MasterKeys = bytes | Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrapped:
    """What became of the keys that stand."""

    changed: int  # another master key had wrapped them
    before: int  # the first master key had wrapped them already
    unopened: int  # no master key of this bus opens them


class Keyring:
    """Keys by id and by subject; what a transaction of its own made is kept once it is committed.

    Args:
        storage: where the keys stand, wrapped; entered with the bus.
        master_keys: 32 bytes each, from outside the database. The first one wraps; all of them
            unwrap, so that one can follow another.
        clock: monotonic seconds.

    Raises:
        ConfigurationError: EB1122, a master key has another length.
        MissingExtraError: EB1005, the library is not installed.
    """

    def __init__(
        self,
        storage: Storage,
        master_keys: MasterKeys,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        masters = (master_keys,) if isinstance(master_keys, bytes) else tuple(master_keys)
        if not masters:
            raise _no_master_key("the bus has an empty list of master keys")
        for each in masters:
            if len(each) != KEY_BYTES:
                raise _no_master_key(f"one has {len(each)} bytes")
        require_cipher()
        self._storage = storage
        self._masters = masters
        self._clock = clock
        self._ids: dict[Subject, bytes] = {}
        self._kept: dict[bytes, tuple[float, Key]] = {}  # until then
        self._shredded = 0  # counts: what was read before it is not kept

    async def opening(self, payloads: Sequence[bytes], tx: Transaction | None = None) -> Keys:
        """The keys of everything sealed in them, in one read at most; unknown ones are left out."""
        found: dict[bytes, Key] = {}
        missing: list[bytes] = []
        for each in key_ids(payloads):
            key = self._fresh(each)
            if key is None:
                missing.append(each)
            else:
                found[each] = key
        if missing:
            before = self._shredded
            async with self._within(tx) as held:
                rows = await held.subject_keys.find(missing)
            found |= {key.id: key for key in self._keep(rows, before)}
        return found

    async def sealing(
        self, subjects: Iterable[Subject], tx: Transaction | None = None
    ) -> Mapping[Subject, Key]:
        """The keys of subjects; whoever had none has one now, committed with `tx`.

        Raises:
            PersonalDataError: EB3119, the name of a subject is too long, or has a NUL.
        """
        found: dict[Subject, Key] = {}
        missing: list[Subject] = []
        for each in subjects:
            key = self._fresh(self._ids.get(each))
            if key is None:
                missing.append(checked(each))
            else:
                found[each] = key
        if missing:
            before = self._shredded
            async with self._within(tx) as held:
                rows = await self._standing(held, missing)
            found |= {key.subject: key for key in self._keep(rows, before, alone=tx is None)}
        return found

    async def check(self) -> None:
        """Refuse master keys of which none is that of the keys that stand here.

        Raises:
            ConfigurationError: EB1122.
        """
        async with self._storage.transaction() as tx:
            row = await tx.subject_keys.any()
        if row is not None:
            try:
                self._unwrapped(row)
            except PersonalDataError:
                raise _no_master_key("another one wrapped the keys in this database") from None

    def forget(self, subject: Subject) -> None:
        """Its key was destroyed: what is kept here of it goes at once."""
        self._shredded += 1
        self._kept.pop(self._ids.pop(subject, b""), None)

    async def rewrap(self, *, actor: str, reason: str = "", dry_run: bool = False) -> Rewrapped:
        """Wrap with the first master key what another one wrapped; a commit per 500 keys.

        Whoever is interrupted begins anew: what was rewrapped is passed over.
        """
        changed = before = unopened = 0
        after: SubjectKey | None = None
        while True:
            async with self._storage.transaction() as tx:
                page = await tx.subject_keys.listed(after=after, limit=REWRAPPED)
                old, shut = self._to_rewrap(page)
                if dry_run or not old:
                    changed += len(old)
                else:
                    changed += await tx.subject_keys.rewrap(old, actor=actor, reason=reason)
            before += len(page) - len(old) - shut
            unopened += shut
            if len(page) < REWRAPPED:
                return Rewrapped(changed=changed, before=before, unopened=unopened)
            after = page[-1]

    def _to_rewrap(self, rows: Sequence[SubjectKey]) -> tuple[list[tuple[SubjectKey, bytes]], int]:
        """Those the first master key does not open, wrapped anew; how many none opens."""
        old: list[tuple[SubjectKey, bytes]] = []
        unopened = 0
        for row in rows:
            try:
                secret, by = self._secret(row)
            except PersonalDataError:
                unopened += 1
                continue
            if by > 0:
                old.append((row, self._wrapped(secret, row.id, row.subject)))
        return old, unopened

    async def _standing(self, tx: Transaction, subjects: list[Subject]) -> list[SubjectKey]:
        rows = list(await tx.subject_keys.standing(subjects))
        missing = set(subjects) - {row.subject for row in rows}
        if missing:
            rows += await tx.subject_keys.add([self._made(each) for each in missing])
        return rows

    def _made(self, subject: Subject) -> SubjectKey:
        key_id, secret = os.urandom(16), os.urandom(KEY_BYTES)
        wrapped = self._wrapped(secret, key_id, subject)
        return SubjectKey(subject=subject, id=key_id, wrapped=wrapped)

    def _wrapped(self, secret: bytes, key_id: bytes, subject: Subject) -> bytes:
        return encrypted(self._masters[0], secret, _about(key_id, subject))

    def _unwrapped(self, row: SubjectKey) -> Key:
        if row.wrapped is None:
            return Key(row.id, row.subject, None)
        secret, _ = self._secret(row)
        return Key(row.id, row.subject, secret)

    def _secret(self, row: SubjectKey) -> tuple[bytes, int]:
        """The key, and which of the master keys had wrapped it."""
        assert row.wrapped is not None  # noqa: S101 - it stands
        for number, master in enumerate(self._masters):
            with suppress(PersonalDataError):
                return decrypted(master, row.wrapped, _about(row.id, row.subject)), number
        raise _not_unwrapped(row)

    def _keep(
        self, rows: Iterable[SubjectKey], before: int, *, alone: bool = False
    ) -> Sequence[Key]:
        """Kept: what is committed, and was read since nothing was destroyed here."""
        until = self._clock() + KEPT_SECONDS
        keys: list[Key] = []
        for row in rows:
            key = self._unwrapped(row)
            keys.append(key)
            if (row.kept or alone) and before == self._shredded:
                self._kept.pop(key.id, None)
                self._kept[key.id] = until, key
                self._ids[key.subject] = key.id
        while len(self._kept) > MOST_KEPT:
            _, oldest = self._kept.pop(next(iter(self._kept)))
            self._ids.pop(oldest.subject, None)
        return keys

    def _fresh(self, key_id: bytes | None) -> Key | None:
        until, key = self._kept.get(key_id or b"", (0.0, None))
        return key if until > self._clock() else None

    @asynccontextmanager
    async def _within(self, tx: Transaction | None) -> AsyncIterator[Transaction]:
        if tx is not None:
            yield tx
        else:
            async with self._storage.transaction() as own:
                yield own


def keyring_for(
    registry: Registry, storage: Storage | None, master_keys: MasterKeys | None
) -> Keyring | None:
    """The keyring of a bus, which its registry reads with from now on; None: without master key.

    Raises:
        ConfigurationError: EB1122, a class has personal fields, and something is missing.
        MissingExtraError: EB1005.
    """
    if storage is None or master_keys is None:
        for cls in registry.classes:
            if cls.__wire__ is not None and cls.__wire__.type in registry.personal:
                raise no_keyring(f"{cls.__module__}.{cls.__qualname__}", storage=bool(storage))
        return None
    registry.keys = keyring = Keyring(storage, master_keys)
    return keyring


def no_keyring(owner: str, *, storage: bool) -> ConfigurationError:
    """EB1122: personal fields, and nothing to seal them with."""
    lacks = "the bus has no master key" if storage else "the bus has no storage for their keys"
    return _no_master_key(lacks, where=owner)


def _no_master_key(why: str, *, where: str = "EventBus(…, master_key=…)") -> ConfigurationError:
    return ConfigurationError(
        "EB1122",
        "personal fields cannot be sealed",
        where=where,
        why=why,
        next="EventBus(…, storage=…, master_key=b64decode(os.environ[…])): 32 bytes that no"
        " database and no repository holds",
    )


def _not_unwrapped(row: SubjectKey) -> PersonalDataError:
    return PersonalDataError(
        "EB3116",
        "the key of personal data cannot be unwrapped",
        where=f"key {row.id.hex()}",
        why="another master key wrapped it, or its row was changed",
        next="start the bus with the master key of this database, then redrive",
    )


def checked(subject: Subject) -> Subject:
    """The subject.

    Raises:
        PersonalDataError: EB3119, its name is too long, or has a NUL.
    """
    longest = max(len(part.encode(errors="replace")) for part in subject)
    if longest > LONGEST_SUBJECT_BYTES or any("\0" in part for part in subject):
        raise PersonalDataError(
            "EB3119",
            "a subject cannot have a key under this name",
            where=f"a name of {longest:,} bytes",
            why=f"at most {LONGEST_SUBJECT_BYTES:,} bytes, without NUL, fit into its row",
            next="name the subject by a short id",
        )
    return subject


def _about(key_id: bytes, subject: Subject) -> bytes:
    return b"\0".join((key_id, subject.tenant.encode(), subject.name.encode()))
