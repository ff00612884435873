"""A lane's batch of a saga's messages, in one transaction (G3). Read `handle_batch` first."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from eventbus.errors import CodecError, SagaError
from eventbus.handler import Invocation
from eventbus.message import Message
from eventbus.saga.course import Course
from eventbus.saga.definition import Stash
from eventbus.saga.family import Family
from eventbus.saga.handover import Handover
from eventbus.saga.illegible import Illegible
from eventbus.saga.incoming import Incoming, by_envelope, read
from eventbus.saga.input import DEAD, GaveUp, Started
from eventbus.saga.journal import GAVE_UP
from eventbus.saga.outgoing import Tools
from eventbus.saga.tenancy import new_saga_id
from eventbus.saga.transition import AllOrNone, Transition, raise_if_ours, write
from eventbus.storage import Transaction
from eventbus.storage.sagas import Correlation, SagaRecord, SagaStart, Stashed

Ids = dict[Correlation, UUID]


@dataclass(slots=True)
class Work:
    """What is known and decided while a batch runs."""

    transitions: dict[UUID, Transition]
    elsewhere: dict[UUID, Handover]  # sagas of a version that is not here
    started: dict[UUID, Incoming]
    early: Mapping[Correlation, Sequence[Stashed]]  # what came before what starts now
    waiting: list[Stashed]  # before their sagas


class Engine:
    """The batch handler of one saga: lock, advance, save, send.

    Locks in one order: keys that have no saga yet, then sagas by id, then everything else.
    """

    def __init__(self, family: Family, tools: Tools) -> None:
        self.family = family
        self.tools = tools

    async def handle_batch(
        self, calls: Sequence[Invocation], tx: Transaction
    ) -> Sequence[Exception | None]:
        """Feed each message to its saga; aligned: None, or the failure to park it with.

        Raises:
            StorageError: nothing is kept, roll back.
            Exception: a start failed, roll back; alone it fails its message.
        """
        messages = [call.context.message for call in calls]
        if not self.family.has_local_steps:
            return (await self.handle(messages, tx))[0]
        return [await self._alone(message, tx) for message in messages]

    async def handle(
        self, messages: Sequence[Message], tx: Transaction
    ) -> tuple[Sequence[Exception | None], Sequence[UUID]]:
        """The same for messages; also the sagas that were started.

        Raises:
            StorageError: nothing is kept, roll back.
        """
        incoming = [self._read(message) for message in messages]
        known = [each for each in incoming if isinstance(each, Incoming)]
        ids, work = await self._locked(known, tx)
        failures: list[Exception | None] = []
        for each in incoming:
            one = each if isinstance(each, Exception) else await self._one(each, ids, work, tx)
            if one is not None and any(each is start for start in work.started.values()):
                raise one  # its row must not stand without a transition
            failures.append(one)
        handovers = list(work.elsewhere.values())
        await write(tx, list(work.transitions.values()), self.tools, handovers)
        if work.waiting:
            await tx.sagas.stash(work.waiting)
        return failures, tuple(work.started)

    async def start(self, message: Message, tx: Transaction) -> UUID:
        """The saga of a starting event, new or not, with no inbox around it.

        Raises:
            Exception: why its first transition cannot be made; roll back.
        """
        failures, started = await self.handle([message], tx)
        _raise_first(failures)
        if started:
            return started[0]
        each = read(message, self.family, self.tools)
        found = await tx.sagas.find([key for _, key in each.keys])
        return next(iter(found.values()))

    async def gave_up(self, call: Invocation, tx: Transaction, *, discarded: bool = False) -> None:
        """A message is a dead letter: its sagas are stuck until somebody looks.

        Discarded, it is told only to sagas that do not know yet: some began after it was given up.
        """
        message = call.context.message
        each = self._read(message)
        if isinstance(each, Exception):
            each = by_envelope(message, self.family)
        found = await tx.sagas.find([key for _, key in each.keys]) if each.keys else {}
        wanted = {*found.values(), *([each.saga_id] if each.saga_id else [])}
        records = [
            record
            for record in await tx.sagas.lock(sorted(wanted))
            if record.saga == self.family.name
            and not (discarded and await _knows(record.saga_id, message.id, tx))
        ]
        transitions = self.transitions(records, tx)
        for one in transitions:
            await one.feed(GaveUp(message.id, DEAD))
        here = {one.record.saga_id for one in transitions}
        elsewhere = [self.aside(one, tx) for one in records if one.saga_id not in here]
        for handover in elsewhere:
            handover.tell_dead(message.id)
        await write(tx, transitions, self.tools, elsewhere)

    def transitions(self, records: Iterable[SagaRecord], tx: Transaction) -> Sequence[Transition]:
        """Of locked sagas of this family, those whose version is here and whose row can be read."""
        found: list[Transition] = []
        for record in records:
            with suppress(SagaError):
                one = self.transition(record, tx)
                found += [] if one is None else [one]
        return found

    def transition(self, record: SagaRecord, tx: Transaction) -> Transition | None:
        """Of a locked saga; None: it is of another family, or its version is not here.

        Raises:
            SagaError: EB7069, its row cannot be read.
        """
        definition = self.family.reading(record.definition)
        if record.saga != self.family.name or definition is None:
            return None
        return Transition(self.family, Course(definition, record), record, self.tools, tx)

    def aside(self, record: SagaRecord, tx: Transaction) -> Handover:
        """Of a locked saga of this family that has no transition here."""
        try:
            self.transition(record, tx)
        except SagaError as error:
            return Illegible(record, error)
        return Handover(record)

    async def _alone(self, message: Message, tx: Transaction) -> Exception | None:
        """With authors' SQL: its start, its transitions and its SQL in one savepoint."""
        try:
            async with tx.savepoint():
                failures, _ = await self.handle([message], tx)
                _raise_first(failures)
        except Exception as error:  # the border where the author's code may fail in any way
            raise_if_ours(error)
            return error
        return None

    def _read(self, message: Message) -> Incoming | Exception:
        try:
            return read(message, self.family, self.tools)
        except (CodecError, SagaError) as error:
            return error

    async def _locked(self, incoming: Sequence[Incoming], tx: Transaction) -> tuple[Ids, Work]:
        """Find, lock the keys that have none, find again, start, lock."""
        keys = {key for each in incoming for _, key in each.keys}
        ids = await tx.sagas.find(keys) if keys else {}
        missing = {
            key
            for each in incoming
            if each.keys and not any(key in ids for _, key in each.keys)
            for _, key in each.keys
        }
        drains = {key for each in incoming for key in each.drains}
        if missing or drains:
            await tx.sagas.lock_keys(missing | drains)
        if missing:
            ids |= await tx.sagas.find(missing)
        started = await self._start(incoming, ids, tx)
        wanted = {*ids.values(), *(each.saga_id for each in incoming if each.saga_id)}
        records = await tx.sagas.lock(sorted(wanted)) if wanted else ()
        here = {each.record.saga_id: each for each in self.transitions(records, tx)}
        elsewhere = {
            record.saga_id: self.aside(record, tx)
            for record in records
            if record.saga == self.family.name and record.saga_id not in here
        }
        early = await self._early(here.keys() & started.keys(), here, tx)
        return ids, Work(here, elsewhere, started, early, [])

    async def _early(
        self, started: Iterable[UUID], here: Mapping[UUID, Transition], tx: Transaction
    ) -> Mapping[Correlation, Sequence[Stashed]]:
        """What waited for the business keys of those that start, taken out of the stash."""
        keys = [here[saga_id].business_key for saga_id in started]
        found: defaultdict[Correlation, list[Stashed]] = defaultdict(list)
        for each in await tx.sagas.drain(keys) if keys else ():
            found[each.key].append(each)
        return found

    async def _start(
        self, incoming: Sequence[Incoming], ids: Ids, tx: Transaction
    ) -> dict[UUID, Incoming]:
        """One for each business key that has none."""
        starts: dict[Correlation, SagaStart] = {}
        by: dict[UUID, Incoming] = {}
        for each in incoming:
            key = each.start
            if key is None or key in starts or any(one in ids for _, one in each.keys):
                continue
            start = self._first_row(each, key)
            starts[key], by[start.saga_id] = start, each
        if not starts:
            return {}
        rows = sorted(starts.values(), key=lambda row: row.key)
        new = await tx.sagas.start(rows)
        ids |= {key: row.saga_id for key, row in starts.items() if row.saga_id in new}
        if len(new) < len(rows):  # started without the lock of its key: by somebody else's hand
            ids |= await tx.sagas.find([k for k, row in starts.items() if row.saga_id not in new])
        return {saga_id: each for saga_id, each in by.items() if saga_id in new}

    def _first_row(self, each: Incoming, key: Correlation) -> SagaStart:
        newest = self.family.newest
        return SagaStart(
            saga_id=new_saga_id(each.message.tenant),
            saga=self.family.name,
            key=key.value,
            definition=newest.version,
            digest=newest.digest,
            data=b"",
        )

    async def _one(self, each: Incoming, ids: Ids, work: Work, tx: Transaction) -> Exception | None:
        targets = self._targets(each, ids)
        if not targets:
            return self._without_saga(each, work)
        transitions = [work.transitions[one] for one in targets if one in work.transitions]
        elsewhere = [work.elsewhere[one] for one in targets if one in work.elsewhere]
        if not transitions and not elsewhere:
            self._missing()
            return None
        try:
            async with AllOrNone(tx, transitions):
                for one in transitions:
                    await self._feed(one, each, work)
        except Exception as error:  # the border where the author's code may fail in any way
            raise_if_ours(error)
            return error
        for handover in elsewhere:
            await self._hand_over(handover, each, tx)
        return None

    async def _hand_over(self, to: Handover, each: Incoming, tx: Transaction) -> None:
        """To a worker that has the version; this one holds the locks that a reminder is for."""
        if each.drains:
            waiting = () if to.has_ended else await tx.sagas.drain(each.drains)
            if waiting:
                to.take(each.message, [one.message for one in waiting])
        elif _says_something(each):
            to.take(each.message)
            if not isinstance(to, Illegible):
                self.tools.count("saga_definition_missing_total")
            if to.has_ended:
                self.tools.count("saga_ignored_inputs_total", saga=self.family.name, outcome="late")
        else:
            self._missing()

    def _targets(self, each: Incoming, ids: Ids) -> set[UUID]:
        if each.saga_id is not None:
            return {each.saga_id}
        return {ids[key] for _, key in each.keys if key in ids}

    async def _feed(self, one: Transition, each: Incoming, work: Work) -> None:
        if each.drains:
            await one.drain(each.drains)
        elif work.started.get(one.record.saga_id) is each and each.event is not None:
            early = work.early.get(one.business_key, ())
            await one.start(Started(each.event, each.message.id), each.message, early)
        elif _says_something(each):
            await one.offer(each.message)
        else:
            self._missing()  # it is addressed to the saga and says nothing

    def _without_saga(self, each: Incoming, work: Work) -> Exception | None:
        """By the event's policy; what is not for this saga at all is nobody's."""
        if not each.keys:
            self._missing()
            return None
        route, key = each.missing
        if isinstance(route.missing, Stash):
            stashed = Stashed(key=key, message=each.message, ttl=route.missing.ttl)
            work.waiting.append(stashed)
            return None
        self._missing()
        return _no_saga(each, key) if route.missing == "fail" else None

    def _missing(self) -> None:
        self.tools.count("saga_ignored_inputs_total", saga=self.family.name, outcome="missing")


async def _knows(saga_id: UUID, message_id: str, tx: Transaction) -> bool:
    """Whether it was told of this dead letter before."""
    journal = await tx.sagas.journal(saga_id)
    return any(
        one.entry.input_kind == GAVE_UP and one.entry.input_id == message_id for one in journal
    )


def _says_something(each: Incoming) -> bool:
    return each.event is not None or "sagaoutcome" in each.message.headers


def _raise_first(failures: Sequence[Exception | None]) -> None:
    for failure in failures:
        if failure is not None:
            raise failure


def _no_saga(each: Incoming, key: Correlation) -> SagaError:
    return SagaError(
        "EB7063",
        f"there is no saga {key.saga!r} for {each.message.type!r}",
        where=f"{key.name or 'key'} {key.value}, message {each.message.id}",
        why='its route says missing="fail"',
        next="it is tried again; then look at it: eventbus dead-letter show",
    )
