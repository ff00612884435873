"""What is wrong with the handlers of commands and their undos, found when the bus is built."""

import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import NoneType, UnionType
from typing import Any, Protocol, Union, cast, get_args, get_origin, get_type_hints

from eventbus.errors import WiringError
from eventbus.event import Command, Undone, reply_of
from eventbus.handler import Mark


class Named(Protocol):
    """A handler, as far as its name goes."""

    @property
    def where(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102


def check_participant(function: Callable[..., Any], mark: Mark, where: str) -> None:
    """Look at one handler of a command, or its undo.

    Raises:
        WiringError: EB1251, EB1252 or EB1253.
    """
    if mark.kind == "command":
        _refuse_undo_by_handles(mark, where)
        return
    parameters = list(inspect.signature(function).parameters.values())
    unbound = bool(parameters) and parameters[0].name == "self"
    if len(parameters) != 3 or unbound or not inspect.iscoroutinefunction(function):
        taken = ", ".join(parameter.name for parameter in parameters)
        raise WiringError(
            "EB1251",
            "an undo takes (command, done, ctx)",
            where=where,
            why="it is a method without its object" if unbound else f"it takes ({taken})",
            next="async def refund(command: RefundCard, done: CardCharged, ctx: Context) -> None",
        )
    if not mark.group.transactional and not _takes_none(function, parameters[1].name):
        raise WiringError(
            "EB1252",
            "an undo that does not take None for what was done",
            where=where,
            why="its group works outside transactions: of an effect whose attempts are used up"
            " nobody knows whether it happened, and it is undone without its reply (SAGA004)",
            next="done: CardCharged | None",
        )


def refuse_without_storage(handlers: Iterable[Named]) -> None:
    """An undo is decided by rows: there is none without a storage.

    Raises:
        WiringError: EB1254.
    """
    for handler in handlers:
        if handler.kind == "undo":
            raise WiringError(
                "EB1254",
                "an undo, and no storage",
                where=handler.where,
                why="whether its forward command was done stands in the storage",
                next='EventBus(…, storage="postgresql://…"), the one of the forward command',
            )


def _refuse_undo_by_handles(mark: Mark, where: str) -> None:
    command: object = mark.what[0]
    is_command = isinstance(command, type) and issubclass(command, Command)
    if is_command and reply_of(cast("type[Command[Any]]", command)) is Undone:
        raise WiringError(
            "EB1253",
            f"{mark.what[0].__name__} undoes, and is handled like a forward command",
            where=where,
            why="it is answered by Undone: it must meet the effect that it takes back, or a late"
            " forward command runs behind it",
            next=f"@undoes(forward, {mark.what[0].__name__}), forward being what it takes back",
        )


def _takes_none(function: Callable[..., Any], name: str) -> bool:
    """Whether the annotation says so; without one it may."""
    hints: dict[str, Any] = {}
    with suppress(NameError, TypeError):  # what cannot be read is left to the type checkers
        hints = get_type_hints(function)
    hint = hints.get(name, Any)
    if hint is Any or hint is NoneType:
        return True
    return get_origin(hint) in {Union, UnionType} and NoneType in get_args(hint)
