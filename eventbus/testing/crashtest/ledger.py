"""What an application did, written down in the transactions in which it did it; and the judgement.

The letters are those of the invariants that the framework itself is tested by.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from traceback import extract_tb
from typing import Any, cast

from eventbus.bus import Description, EventBus
from eventbus.handler import Invocation, UnitOfWork
from eventbus.message import identity_of
from eventbus.pubsub.routes import Routes
from eventbus.storage.sql import Sql
from eventbus.testing.crashtest.points import aside
from eventbus.testing.saga_invariants import TableInvariant

Row = Mapping[str, Any]
Check = Callable[[UnitOfWork], Awaitable[None]]

_EFFECT = (
    "INSERT INTO crashtest_effects (grp, handler, identity, id, source, type)"
    " VALUES ($1, $2, $3, $4, $5, $6)"
)
_DOUBLED = """
SELECT grp AS "group", handler, type, id, count(*) AS effects FROM crashtest_effects
 GROUP BY grp, handler, identity, type, id HAVING count(*) > 1"""
_TORN = """
SELECT e.grp AS "group", e.handler, e.type, e.id FROM crashtest_effects e WHERE NOT EXISTS
 (SELECT 1 FROM eventbus_inbox i WHERE i.group_name = e.grp AND i.message = e.identity)"""
_ORDER = """
SELECT e.grp AS "group", s.topic, s.key, s.type, s.id, s.place FROM crashtest_effects e
 JOIN crashtest_sent s ON s.id = e.id AND s.source = e.source
 WHERE s.key IS NOT NULL ORDER BY e.place"""
_SETTLED = "SELECT group_name, message FROM eventbus_inbox"
_HELD = """
SELECT group_name, message FROM eventbus_parked
 UNION SELECT group_name, message FROM eventbus_discarded"""
_EFFECTS = "SELECT DISTINCT grp AS group_name, identity AS message FROM crashtest_effects"
_SENT = "SELECT id, source, type, topic, key FROM crashtest_sent ORDER BY place"
_UNSENT = "SELECT message_id AS id, type, topic, key, error FROM eventbus_outbox"
_GIVEN_UP = """
SELECT group_name AS "group", type, message_key AS key, error_type, error FROM eventbus_parked
 WHERE reason IS NOT NULL"""
_SAGAS = "SELECT saga_type AS saga, business_key AS key, status FROM eventbus_saga"


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold any more, and the rows that say so."""

    invariant: str
    what: str
    rows: Sequence[Row] = ()


@dataclass(slots=True)
class Standing:
    """How it ends without a crash: what no crash may change."""

    given_up: "Counter[tuple[Any, ...]]" = field(default_factory=Counter)
    sagas: "Counter[tuple[Any, ...]]" = field(default_factory=Counter)
    effective: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    @property
    def failing(self) -> list[str]:
        """What failed, a line each."""
        return [
            f"{group}: {wire_type} {key or ''}: {error}"
            for group, wire_type, key, error in self.given_up.elements()
        ]


class Ledger:
    """Effects of the handlers of an application, an own row for each in its own transaction."""

    def __init__(self, told: Description) -> None:
        self._groups = told.groups

    @classmethod
    async def of(cls, app: EventBus) -> "Ledger":
        """That of an app, whatever it runs on; nothing is connected to."""
        return cls(await app.replace(transport="memory://", storage="sqlite://").describe())

    async def note(
        self, call: Invocation, call_next: Callable[[Invocation], Awaitable[None]]
    ) -> None:
        """A middleware: a call that ends well has a row, if it has a transaction of its own."""
        await call_next(call)
        ctx = call.context
        if isinstance(call.what, Sequence) or not self._groups[ctx.group].group.transactional:
            return
        message, handler = ctx.message, getattr(call.handler, "__qualname__", repr(call.handler))
        identity = str(message.identity)
        before = aside.set(True)
        try:
            await ctx.sql.execute(
                _EFFECT, ctx.group, handler, identity, message.id, message.source, message.type
            )
        finally:
            aside.reset(before)

    async def judge(self, sql: Sql, *, dry: Standing | None, cut: bool) -> list[Violation]:
        """What does not hold of the built-in invariants, once everything has come to rest.

        Args:
            sql: in a transaction of the storage.
            dry: how it ends without a crash; None: this is it.
            cut: the scenario did not come to its end.
        """
        fetch = sql.fetch
        done = await _pairs(sql, _EFFECTS)
        settled, held = await _pairs(sql, _SETTLED), await _pairs(sql, _HELD)
        wanted = list(self._wanted(await fetch(_SENT)))
        lost = [row for pair, row in wanted if pair not in settled | held]
        idle = [row for pair, row in wanted if pair in settled - held - done]
        found = [
            Violation(
                "NOTHING_LOST",
                "a committed message was not handled, nor is it parked",
                [*self._unsent(await fetch(_UNSENT)), *lost],
            ),
            Violation("NO_DUPLICATE_EFFECT", "a message took effect twice", await fetch(_DOUBLED)),
            Violation("KEY_ORDER", "one overtook another", self._late(await fetch(_ORDER))),
            Violation("ATOMIC", "an effect stands without its inbox row", await fetch(_TORN)),
        ]
        if dry is not None:
            now = await self.standing(sql)
            torn = [row for row in idle if (row["group"], row["type"]) in dry.effective]
            found += [
                Violation("ATOMIC", "an inbox row stands without its effect", torn),
                Violation(
                    "NOTHING_GIVEN_UP",
                    "a message fails that does not fail without the crash",
                    _rows(now.given_up - dry.given_up, "group", "type", "key", "error"),
                ),
                Violation("LEDGER", "a saga ends otherwise", _otherwise(now, dry, cut=cut)),
            ]
        return [each for each in found if each.rows]

    async def standing(self, sql: Sql) -> Standing:
        """What failed, what took effect, and where the sagas are."""
        given_up = await sql.fetch(_GIVEN_UP)
        sagas = await sql.fetch(_SAGAS)
        done = await _pairs(sql, _EFFECTS)
        wanted = list(self._wanted(await sql.fetch(_SENT)))
        kinds = {(row["group"], row["type"]) for _, row in wanted}
        return Standing(
            given_up=Counter(
                (row["group"], row["type"], row["key"], f"{row['error_type']}: {row['error']}")
                for row in given_up
            ),
            sagas=Counter((row["saga"], row["key"], row["status"]) for row in sagas),
            effective=kinds - {(r["group"], r["type"]) for pair, r in wanted if pair not in done},
        )

    def _wanted(self, sent: Sequence[Row]) -> Iterator[tuple[tuple[str, str], Row]]:
        """Each message for each group that subscribes to it."""
        for row in sent:
            identity = str(identity_of(row["source"], row["id"]))
            for name, routes in self._groups.items():
                if _wants(routes, row):
                    yield (name, identity), {"group": name, **row}

    def _unsent(self, rows: Sequence[Row]) -> Iterator[Row]:
        """What a broker refuses since nobody here subscribes to it waits for another service."""
        for row in rows:
            if row["error"] is None or any(_wants(one, row) for one in self._groups.values()):
                yield row

    def _late(self, effects: Sequence[Row]) -> list[Row]:
        """First effects in an order other than that of the outbox."""
        last: dict[tuple[str, str, str], int] = {}
        seen: set[tuple[str, int]] = set()
        late: list[Row] = []
        for row in effects:
            group, place = row["group"], row["place"]
            if self._groups[group].group.order != "key" or (group, place) in seen:
                continue
            seen.add((group, place))
            where = group, row["topic"], row["key"]
            if place < last.get(where, 0):
                late.append(row)
            last[where] = max(place, last.get(where, 0))
        return late


async def _pairs(sql: Sql, query: str) -> set[tuple[str, str]]:
    """Groups and identities."""
    return {(row["group_name"], row["message"]) for row in await sql.fetch(query)}


async def judged_by_user(bus: EventBus, checks: Sequence[Check]) -> list[Violation]:
    """The application's own invariants, each in a transaction of its own."""
    found: list[Violation] = []
    for check in checks:
        async with bus.transaction() as tx:
            watched = _Watched(tx)
            try:
                await check(cast("UnitOfWork", watched))
            except Exception as error:  # an invariant may fail in any way
                found.append(Violation(_name_of(check), _said(error), watched.rows))
    return found


def _name_of(check: Check) -> str:
    named = check.check if isinstance(check, TableInvariant) else check
    return getattr(named, "__name__", repr(named))


def _said(error: Exception) -> str:
    """Its first line; of an assert without a message the line of the code."""
    last = extract_tb(error.__traceback__)[-1]
    text = str(error).partition("\n")[0] or f"{last.line}"
    kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
    return f"{kind}{text} ({Path(last.filename).name}:{last.lineno})"


def _wants(routes: Routes, row: Row) -> bool:
    return row["topic"] in routes.interest().topics and bool(routes.of(row["type"]).handlers)


def _otherwise(now: Standing, dry: Standing, *, cut: bool) -> list[Row]:
    """A scenario that was cut off leaves sagas that wait, or never began; a stuck one is wrong."""
    new = now.sagas - dry.sagas
    if cut:
        return _rows(Counter({each: n for each, n in new.items() if each[2] == "stuck"}), *_SAGA)
    missing = [
        {**row, "status": f"not {row['status']}"} for row in _rows(dry.sagas - now.sagas, *_SAGA)
    ]
    return [*_rows(new, *_SAGA), *missing]


_SAGA = ("saga", "key", "status")


def _rows(counted: "Counter[tuple[Any, ...]]", *names: str) -> list[Row]:
    return [dict(zip(names, each, strict=True)) for each in counted.elements()]


class _Watched:
    """A unit of work whose `sql` remembers what it read last: the rows of a report."""

    def __init__(self, inner: UnitOfWork) -> None:
        self._inner = inner
        self.rows: Sequence[Row] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def sql(self) -> "_Watched":
        """This one, which forwards to the SQL of the other."""
        return self

    async def fetch(self, query: str, *args: Any) -> Sequence[Row]:
        """Forward, and remember."""
        self.rows = [dict(row) for row in await self._inner.sql.fetch(query, *args)]
        return self.rows

    async def execute(self, query: str, *args: Any) -> Any:
        """Forward."""
        return await self._inner.sql.execute(query, *args)
