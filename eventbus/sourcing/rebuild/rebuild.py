"""A rebuild: its phases, one after the other."""

from collections.abc import Awaitable, Callable

from eventbus.codec import Registry
from eventbus.errors import StorageError
from eventbus.sourcing.definition import Definition
from eventbus.sourcing.rebuild import refusals
from eventbus.sourcing.rebuild.level import Level
from eventbus.sourcing.rebuild.options import START, Beat, Options, Rebuilt
from eventbus.sourcing.rebuild.owner import Owner
from eventbus.sourcing.rebuild.parts import Far, Parts, scan_of
from eventbus.sourcing.rebuild.plan import Plan, parked_in, planned
from eventbus.sourcing.shard import shard_name
from eventbus.sourcing.standing import first_after
from eventbus.sourcing.view import Encode
from eventbus.storage import Storage, Transaction
from eventbus.storage.projections import Difference, ProjectionVersion, summed


class Rebuild:
    """One at a time for a projection; what was killed is gone on with.

    Args:
        storage: entered.
        definition: the code that it is built by.
        registry: decodes what is recorded.
        encode: not used for effects: they are off.
        options: what it may.
        beat: is told how far it is, at least each second.
        confirm: asked with the difference before the switch; False: not now.
    """

    def __init__(
        self,
        storage: Storage,
        definition: Definition,
        registry: Registry,
        *,
        encode: Encode,
        options: Options,
        beat: Callable[[Beat], None] = lambda _: None,
        confirm: Callable[[Difference], Awaitable[bool]] | None = None,
    ) -> None:
        self._storage = storage
        self._definition = definition
        self._registry = registry
        self._encode = encode
        self._options = options
        self._confirm = confirm
        self._beat = Beat(definition.name, 0, 0, "", options.parts)
        self._owner = Owner(storage, self._beat, beat)

    async def run(self) -> Rebuilt:
        """All phases; what serves is untouched until the switch.

        Raises:
            ProjectionError: EB6004 somebody rebuilds it, EB6009 the log cannot be read by this
                code, EB6010 there is nothing to rebuild, EB6011 it differs under `require_equal`,
                EB6012 events are parked, EB6014 streams were truncated.
            StorageError: the database, EB5006 without space; run it again, it goes on.
        """
        try:
            return await self._phases()
        except StorageError as error:
            if error.code != "EB5006":
                raise
            raise refusals.no_space(self._definition.name, self._beat.phase, error) from error

    async def _phases(self) -> Rebuilt:
        async with self._owner.held():
            await self._owner.say("plan")
            plan = await planned(self._storage, self._definition, self._options)
            self._beat.old, self._beat.new = plan.old.version, plan.new.version
            self._beat.table = ", ".join(shadow.name for _, shadow in plan.tables)
            async with self._storage.transaction() as tx:
                await self._audit(tx, "rebuild", plan)
            rows = await self._scan(plan)
            await self._index(plan)
            level = Level(
                self._storage,
                self._definition,
                self._registry,
                encode=self._encode,
                old=plan.old,
                shards=await self._owner.shards(self._definition, plan.new),
                options=self._options,
                owner=self._owner,
            )
            await level.catch_up()
            difference = await self._verify(level, plan)
            if not self._options.sample:
                rows = difference.equal + difference.differ + difference.new
            parked = await self._parked(plan.new)
            switched = await self._switch(level, plan, difference, parked)
            await self._owner.say("done", done=1, total=1)
        return Rebuilt(
            name=plan.new.name,
            old=plan.old.version,
            new=plan.new.version,
            rows=rows,
            built_to=plan.new.built_to or START,
            difference=difference,
            parked=parked,
            switched=switched,
        )

    async def _scan(self, plan: Plan) -> int:
        version, options = plan.new, self._options
        async with self._storage.transaction() as tx:
            standing = await tx.checkpoints.positions(f"{version.name}@{version.version}/")
        if standing:
            return 0  # it was scanned, and follows since
        scan = scan_of(
            self._storage,
            self._definition,
            self._registry,
            version,
            encode=self._encode,
            options=options,
        )
        parts = Parts(self._storage, scan, self._far)
        await parts.begin(options.parts if self._definition.is_shared else 1)
        rows = await self._owner.while_owned(parts.work(to_the_end=True))
        async with self._storage.transaction() as tx:
            for number in range(version.shards):
                await tx.checkpoints.load(
                    shard_name(version, number),
                    fingerprint=self._definition.fingerprint,
                    start=scan.upto,
                )
        return rows

    def _far(self, far: Far) -> None:
        beat = self._beat
        beat.phase, beat.done, beat.total = "replay", far.done, far.total
        beat.rows, beat.parts, beat.shards = far.rows, len(far.parts), far.parts
        self._owner.show()

    async def _index(self, plan: Plan) -> None:
        await self._owner.say("index")
        async with self._storage.transaction() as tx:
            if self._definition.rows is None:  # they have their indexes
                shadows = [shadow.name for _, shadow in plan.tables]
                await self._owner.while_owned(tx.own_tables.analyze(shadows))
            for _, shadow in plan.tables if self._definition.rows is not None else ():
                await self._owner.while_owned(tx.projections.index(shadow))

    async def _verify(self, level: Level, plan: Plan) -> Difference:
        await self._owner.say("verify")

        async def compare(tx: Transaction) -> Difference:
            found = [
                await tx.projections.compare(table, shadow, sample=self._options.sample)
                for table, shadow in plan.tables
            ]
            return summed(found, [table.name for table, _ in plan.tables])

        difference = await self._owner.while_owned(level.act(compare))
        if self._options.require_equal and (difference.differ or difference.new or difference.gone):
            raise refusals.differs(self._definition.name, difference)
        return difference

    async def _parked(self, version: ProjectionVersion) -> int:
        async with self._storage.transaction() as tx:
            self._beat.parked = await parked_in(tx, version)
        return self._beat.parked

    async def _switch(self, level: Level, plan: Plan, difference: Difference, parked: int) -> bool:
        if not self._options.switch:
            return False
        if parked and not self._options.allow_parked:
            raise refusals.parked(self._definition.name, parked)
        narrowed = self._options.streams or self._options.since != START
        if (
            narrowed
            and difference.gone
            and not difference.equal + difference.differ + difference.new
        ):
            raise refusals.empty(self._definition.name, difference)
        if self._confirm is not None and not await self._confirm(difference):
            return False
        await self._owner.say("switch")

        async def switch(tx: Transaction) -> None:
            await level.put_back(tx)
            await self._noted_as_whole(tx, plan.old)
            await tx.projections.switch(plan.new.name, to=plan.new.version)
            await self._audit(tx, "switch", plan)
            await self._owner.let_go(tx)

        await self._owner.while_owned(level.act(switch))
        return True

    async def _noted_as_whole(self, tx: Transaction, old: ProjectionVersion) -> None:
        """Where an inline version began is overwritten when it is left: did it lack anything?"""
        if old.runs == "inline" and old.built_to is None:
            standing = await tx.checkpoints.positions(f"{old.name}@{old.version}/")
            began = max(standing.values(), default=START)
            if await first_after(tx, self._definition, START, began) is None:
                await tx.projections.built(old.name, old.version, to=began)

    async def _audit(self, tx: Transaction, verb: str, plan: Plan) -> None:
        options = self._options
        await tx.projections.audit(
            verb,
            plan.new.name,
            actor=options.actor or self._owner.name,
            reason=options.reason,
            told={"from": plan.old.version, "to": plan.new.version},
        )
