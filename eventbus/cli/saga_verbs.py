"""`eventbus saga retry`, `skip`, `resolve`, `cancel`, `compensate`, `pause`, `resume`."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click
import orjson

from eventbus.cli.changing import confirm, one_of
from eventbus.cli.failures import DONE, PARTLY, REFUSED
from eventbus.cli.flags import Command, Rate, Settings, all_of
from eventbus.cli.locate import app_of
from eventbus.cli.output import note, show_facts
from eventbus.cli.saga_class import no_saga
from eventbus.cli.saga_looking import filters, no_key, query_of
from eventbus.cli.storages import actor, with_bus
from eventbus.errors import EventBusError, SagaError

if TYPE_CHECKING:
    from eventbus.bus import Sagas
    from eventbus.bus.saga_desk import VerbName
    from eventbus.storage.sagas import SagaSummary

T = TypeVar("T")
MOST = 20  # sagas of which the question says what would be sent
Args = Mapping[str, Any]
NONE: Args = {}

_which: Callable[[Callable[..., Any]], Callable[..., Any]] = all_of(
    [
        click.argument("ids", nargs=-1, type=click.UUID, metavar="[ID]..."),
        filters,
        click.option("--reason", default="", help="Why, for the journal."),
        click.option("--rate", type=Rate(), help="At most so many per second."),
    ]
)


@dataclass(frozen=True, slots=True)
class Changed:
    """A saga, the status after the verb, and what turning back would send."""

    id: UUID
    status: str
    preview: str | None

    def lines(self, would: str) -> Iterator[str]:
        """For people."""
        yield f"{self.id}  {would}{self.status}"
        if would and self.preview is not None:
            yield f"  {self.preview}"


Refused = tuple[UUID, EventBusError]


class Json(click.ParamType["dict[str, Any]"]):
    """A JSON object."""

    name = "json"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "dict[str, Any]":
        """Its fields."""
        try:
            found: Any = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            self.fail(f"no JSON: {error}", param, ctx)
        if not isinstance(found, dict):
            self.fail("write an object: '{\"field\": 1}'", param, ctx)
        fields: dict[str, Any] = found
        return fields


@click.command(cls=Command)
@_which
@click.pass_obj
def retry(settings: Settings, /, **flags: Any) -> int:
    """Send the current step, undo or failed input again: same effect id, attempts from 0."""
    return _change(settings, "retry", flags)


@click.command(cls=Command)
@_which
@click.option("--reply", type=Json(), help="The answer that the step is taken to have had.")
@click.pass_obj
def skip(settings: Settings, /, reply: dict[str, Any] | None, **flags: Any) -> int:
    """Take the step or undo that a saga is stuck on as done; needs --reason."""
    return _change(settings, "skip", flags, NONE if reply is None else {"reply": reply})


@click.command(cls=Command)
@_which
@click.option("--as", "truth", type=click.Choice(["done", "undone"]), required=True)
@click.option("--reply", type=Json(), help="The answer, if the step is done.")
@click.pass_obj
def resolve(settings: Settings, /, truth: str, reply: dict[str, Any] | None, **flags: Any) -> int:
    """Say the truth about --step, unknown or a failed undo: its effect stands, or it does not."""
    if flags["step"] is None:
        raise click.UsageError("resolve needs --step: the one whose effect stands, or does not")
    args: dict[str, Any] = {"step": flags["step"], "as": truth}
    if reply is not None:
        args["reply"] = reply
    return _change(settings, "resolve", flags, args)


@click.command(cls=Command)
@_which
@click.pass_obj
def cancel(settings: Settings, /, **flags: Any) -> int:
    """Turn back as soon as that is safe; refused after the pivot."""
    return _change(settings, "cancel", flags)


@click.command(cls=Command)
@_which
@click.pass_obj
def compensate(settings: Settings, /, **flags: Any) -> int:
    """Begin to undo now; refused while a pivot is in flight or done."""
    return _change(settings, "compensate", flags)


@click.command(cls=Command)
@_which
@click.pass_obj
def pause(settings: Settings, /, **flags: Any) -> int:
    """Let sagas stand still: inputs and timers wait, nothing is lost."""
    return _change(settings, "pause", flags)


@click.command(cls=Command)
@_which
@click.pass_obj
def resume(settings: Settings, /, **flags: Any) -> int:
    """Go on with what waited, in the order of arrival."""
    return _change(settings, "resume", flags)


def _change(settings: Settings, verb: "VerbName", flags: Args, args: Args = NONE) -> int:
    """Select, try, ask, change one after another, say what became of each; the exit code."""
    ids: Sequence[UUID] = flags["ids"]
    narrowing = ("status", "older_than", *(() if verb == "resolve" else ("step",)))
    narrowed = any(flags[name] is not None for name in narrowing)
    named = flags["key"] is not None
    one_of(
        [str(one) for one in ids],
        everything=narrowed or named or flags["saga"] is not None,
        or_else="--key, --type, --status stuck, …",
    )

    async def tried(sagas: "Sagas") -> tuple[list[Changed], list[Refused]]:
        if flags["saga"] is not None and flags["saga"] not in sagas.families:
            raise no_saga(flags["saga"], sagas.families)
        chosen = ids or [one.saga_id for one in await _selected(sagas, flags)]
        if named and not chosen and not narrowed:
            raise no_key(flags["key"], flags["saga"])
        return await _each(sagas, chosen, verb, flags, args, dry_run=True)

    may, refused = _with_sagas(settings, tried)
    if (len(ids) == 1 or named) and len(refused) == 1 and not may:
        raise refused[0][1]
    if may and not settings.dry_run:
        for one in may if len(may) <= MOST else ():
            if one.preview is not None:
                note(settings, f"{one.id}  {one.preview}")
        confirm(settings, f"{_number(len(may))}: {verb}")
        chosen = [one.id for one in may]

        async def done(sagas: "Sagas") -> tuple[list[Changed], list[Refused]]:
            return await _each(sagas, chosen, verb, flags, args, dry_run=False)

        may, more = _with_sagas(settings, done)
        refused += more
    would = "would be " if settings.dry_run else ""
    show_facts(
        settings,
        f"saga {verb}",
        {
            "verb": verb,
            "dry_run": settings.dry_run,
            "changed": [
                {"id": str(one.id), "status": one.status, "preview": one.preview} for one in may
            ],
            "refused": [{"id": str(one), "why": error.why} for one, error in refused],
        },
        [
            *(line for one in may for line in one.lines(would)),
            *(f"{one}  refused: {error.why}" for one, error in refused),
            *([] if may or refused else [f"{_number(0)} found"]),
        ],
    )
    if refused:
        return PARTLY if may else REFUSED
    return DONE


async def _selected(sagas: "Sagas", flags: Args) -> "Sequence[SagaSummary]":
    return await sagas.list(query_of(flags), limit=flags["limit"])


async def _each(
    sagas: "Sagas",
    ids: Sequence[UUID],
    verb: "VerbName",
    flags: Args,
    args: Args,
    *,
    dry_run: bool,
) -> tuple[list[Changed], list[Refused]]:
    changed: list[Changed] = []
    refused: list[Refused] = []
    for at, saga_id in enumerate(ids):
        if flags["rate"] and at and not dry_run:
            await asyncio.sleep(1 / flags["rate"])
        try:
            preview = await sagas.preview(saga_id) if verb in {"cancel", "compensate"} else None
            status = await sagas.change(
                verb, saga_id, args, actor=actor(), reason=flags["reason"], dry_run=dry_run
            )
        except SagaError as error:
            refused.append((saga_id, error))
        else:
            changed.append(Changed(saga_id, status, preview))
    return changed, refused


def _with_sagas(settings: Settings, ask: "Callable[[Sagas], Awaitable[T]]") -> T:
    """The sagas of the app, in its database, beside workers that may run."""
    return with_bus(
        settings,
        app_of(settings),
        lambda bus: ask(bus.sagas),
        why="sagas stand in the storage",
    )


def _number(count: int) -> str:
    return f"{count:,} saga{'' if count == 1 else 's'}"
