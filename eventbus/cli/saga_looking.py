"""`eventbus saga list`, `show`, `timers`, `in-flight`: what stands in the storage."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click
import orjson

from eventbus.cli.flags import Command, Duration, Settings, all_of
from eventbus.cli.locate import called
from eventbus.cli.output import cell, show_facts, show_rows
from eventbus.cli.storages import with_storage

if TYPE_CHECKING:
    from eventbus.bus import Shown
    from eventbus.errors import SagaError
    from eventbus.inspection import Inspected
    from eventbus.storage import Transaction
    from eventbus.storage.sagas import ArmedTimer, SagaQuery, SagaSummary

T = TypeVar("T")
STATUSES = ("running", "resolving", "compensating", "stuck", "completed", "compensated")
_COLUMNS = ("id", "saga", "key", "status", "step", "status_seconds", "why")
_TIMERS = ("saga_id", "saga", "key", "timer", "due_in_seconds")
_IN_FLIGHT = ("saga", "version", "state", "step", "status", "count")

filters: Callable[[Callable[..., Any]], Callable[..., Any]] = all_of(
    [
        click.option("--type", "saga", metavar="NAME", help="Only this saga."),
        click.option("--key", help="Only that of this business key."),
        click.option("--status", type=click.Choice(STATUSES), help="Only in this status."),
        click.option("--step", help="Only those at this step."),
        click.option("--older-than", type=Duration(), help="In their status for longer."),
        click.option("--limit", default=100, show_default=True, help="At most so many."),
    ]
)


@click.command("list", cls=Command)
@filters
@click.pass_obj
def list_(settings: Settings, /, limit: int, **asked: Any) -> None:
    """Sagas, those longest in their status first."""
    found = _read(settings, lambda tx: tx.sagas.look(query_of(asked), limit=limit))
    show_rows(settings, "saga list", [summary(one) for one in found], _COLUMNS)


@click.command(cls=Command)
@click.argument("id", type=click.UUID, required=False)
@click.option("--type", "saga", metavar="NAME", help="With --key: of this saga.")
@click.option("--key", help="Instead of an id: the business key.")
@click.pass_obj
def show(settings: Settings, id: UUID | None, saga: str | None, key: str | None) -> None:
    """One saga: its step log, plan, timers, and every transition with who made it."""
    from eventbus.bus.saga_desk import shown

    if (id is None) == (key is None):
        raise click.UsageError("say which one: its ID, or --key, perhaps with --type")

    async def found(tx: "Transaction") -> "Shown":
        return await shown(await _of_key(saga, str(key), tx) if id is None else id, tx)

    told = _read(settings, found)
    show_facts(settings, "saga show", whole(told), _lines(told))


@click.command(cls=Command)
@click.option("--due", is_flag=True, help="Only what should have fired by now.")
@click.option("--limit", default=100, show_default=True, help="At most so many.")
@click.pass_obj
def timers(settings: Settings, due: bool, limit: int) -> None:
    """What is armed, the next one first; those of a paused saga wait for its resume."""
    found = _read(settings, lambda tx: tx.sagas.timers(due=due, limit=limit))
    show_rows(settings, "saga timers", [timer(one) for one in found], _TIMERS)


@click.command("in-flight", cls=Command)
@click.pass_obj
def in_flight(settings: Settings) -> None:
    """How many open sagas of each version are at each step; for `saga check --in-flight`."""
    found = _read(settings, lambda tx: tx.sagas.in_flight())
    rows = [
        {
            "saga": one.saga,
            "version": one.definition,
            "digest": one.digest.hex(),
            "graph": None if one.graph is None else orjson.loads(one.graph),
            "state": one.state,
            "step": one.step,
            "status": one.status,
            "count": one.count,
        }
        for one in found
    ]
    show_rows(settings, "saga in-flight", rows, _IN_FLIGHT)


def query_of(asked: Mapping[str, Any]) -> "SagaQuery":
    """What the filters say."""
    from eventbus.storage.sagas import SagaQuery

    seconds = asked["older_than"]
    return SagaQuery(
        saga=asked["saga"],
        key=asked["key"],
        status=asked["status"],
        step=asked["step"],
        older_than=None if seconds is None else timedelta(seconds=seconds),
    )


def summary(one: "SagaSummary") -> dict[str, Any]:
    """A row of the list."""
    return {
        "id": str(one.saga_id),
        "saga": one.saga,
        "key": one.key,
        "version": one.definition,
        "status": one.status,
        "paused": one.paused,
        "intent": one.intent,
        "state": one.state_name,
        "step": one.step,
        "transitions": one.version,
        "age_seconds": one.age.total_seconds(),
        "status_seconds": one.in_status.total_seconds(),
        "why": _why(one),
    }


def timer(one: "ArmedTimer") -> dict[str, Any]:
    """A row of the timers."""
    return {
        "saga_id": str(one.saga_id),
        "saga": one.saga,
        "key": one.key,
        "timer": one.name,
        "due_in_seconds": None if one.due_in is None else one.due_in.total_seconds(),
    }


def whole(found: "Shown") -> dict[str, Any]:
    """All of one saga, as JSON; its state and replies are not shown."""
    return {
        **summary(found.summary),
        "steps": [
            {
                "seq": row.seq,
                "phase": row.phase,
                "name": row.name,
                "kind": row.kind,
                "status": row.status,
                "attempt": row.attempt,
                "effect": str(row.effect_id),
                "reply": row.reply_type,
            }
            for row in found.saga.steps
        ],
        "plan": [] if found.plan is None else [f"{u.step}: {u.undo}" for u in found.plan.undos],
        "timers": [timer(one) for one in found.timers],
        "journal": [
            {
                "version": each.entry.version,
                "at": each.at.isoformat(),
                "input": each.entry.input_kind,
                "id": each.entry.input_id,
                "from": each.entry.from_status,
                "to": each.entry.to_status,
                "ignored": orjson.loads(each.entry.detail).get("ignored"),
                "actor": each.entry.actor,
                "reason": _reason(orjson.loads(each.entry.detail)),
                "preview": _sends(orjson.loads(each.entry.detail)),
                "worker": each.entry.worker,
            }
            for each in found.journal
        ],
    }


async def _of_key(saga: str | None, key: str, tx: "Transaction") -> UUID:
    """The only one.

    Raises:
        SagaError: EB7067, there is none.
        UsageError: sagas of several types have the key.
    """
    from eventbus.storage.sagas import SagaQuery

    found = await tx.sagas.look(SagaQuery(saga=saga, key=key), limit=2)
    if not found:
        raise no_key(key, saga)
    if len(found) > 1:
        types = " and ".join(sorted(one.saga for one in found))
        raise click.UsageError(f"{types} have a saga of the key {key!r}: say --type as well")
    return found[0].saga_id


def no_key(key: str, saga: str | None) -> "SagaError":
    """EB7067: none of this key, or what else was asked of it."""
    from eventbus.errors import SagaError

    return SagaError(
        "EB7067",
        f"there is no saga of the key {key!r}",
        where=called(),
        why="none began with it" + ("" if saga is None else f" as {saga!r}"),
        next="eventbus saga list",
    )


def _why(one: "SagaSummary") -> str | None:
    if one.error is None:
        return "paused" if one.paused else one.intent
    error = orjson.loads(one.error)
    return f"{error['reason']}: {error['what']}"


def _reason(detail: Mapping[str, Any]) -> str | None:
    said = detail["input"].get("reason")
    return str(said) if said else None


def _sends(detail: Mapping[str, Any]) -> str | None:
    """What turning back was about to send, as its operator saw it."""
    said = detail["input"].get("args", {}).get("preview")
    return str(said) if said else None


def _lines(found: "Shown") -> Iterator[str]:
    told = whole(found)
    for name in ("id", "saga", "key", "version", "status", "paused", "intent", "state", "why"):
        if told[name] not in {None, False}:
            yield f"{name:<9}{cell(told[name])}"
    yield "steps"
    for row in told["steps"]:
        phase = "undo " if row["phase"] == "undo" else ""
        tries = f"  attempt {row['attempt']}" if row["attempt"] > 1 else ""
        yield f"  {row['seq']}  {phase}{cell(row['name'])}  {row['status']}{tries}"
    for at, line in enumerate(told["plan"]):
        yield f"plan {at + 1}  {cell(line)}"
    for one in told["timers"]:
        seconds = one["due_in_seconds"]
        yield f"timer    {cell(one['timer'])}  " + (
            "paused" if seconds is None else f"{seconds:.0f} s"
        )
    yield "journal"
    for each in told["journal"]:
        more = [each["id"], each["ignored"], each["actor"], each["reason"], each["preview"]]
        said = "  ".join(cell(one) for one in more if one)
        yield f"  {each['version']}  {each['at']}  {each['input']}  {each['to']}  {said}".rstrip()


def _read(settings: Settings, ask: "Callable[[Transaction], Awaitable[T]]") -> T:
    async def asked(storage: "Inspected") -> T:
        async with storage.transaction() as tx:
            return await ask(tx)

    return with_storage(settings, asked)
