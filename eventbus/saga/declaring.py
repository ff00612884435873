"""What the decorators of both front ends leave on methods, and how it is read from a class."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from eventbus.errors import WiringError
from eventbus.event import Command, Event
from eventbus.saga.definition import AN_HOUR, Migration, Missing

P = TypeVar("P")  # the saga class, in the place of self
S = TypeVar("S", bound=BaseModel)
E = TypeVar("E", bound=Event)
Raw = TypeVar("Raw", bound=Callable[[dict[str, Any]], dict[str, Any]])


@dataclass(frozen=True, slots=True)
class Starts:
    """The method begins the saga."""

    event: type[Event]


@dataclass(frozen=True, slots=True)
class Cancels:
    """The method says why the saga shall turn back."""

    event: type[Event]
    by: str | None
    missing: Missing


def starts_on(event: type[E], /) -> Callable[[Callable[[P, E], S]], Callable[[P, E], S]]:
    """Mark the method that makes the first state. The business key is `Message.key`."""
    marker: Callable[..., Any] = marked(Starts(event))
    return marker


def cancels_on(
    event: type[E], /, *, by: str | None = None, missing: Missing = AN_HOUR
) -> Callable[[Callable[[P, S, E], str]], Callable[[P, S, E], str]]:
    """Mark the method that answers the reason for which the event cancels.

    Args:
        event: what cancels; after the pivot it is journalled and ignored.
        by: a field of the event and of the state; None: the event's key is the business key.
        missing: what becomes of the event if there is no such saga.
    """
    marker: Callable[..., Any] = marked(Cancels(event, by, missing))
    return marker


def migrates(*, from_version: int, steps: Mapping[str, str] | None = None) -> Callable[[Raw], Raw]:
    """Mark a static method: that version's state as a dict -> the next one's.

    Args:
        from_version: the version that the state has.
        steps: steps and states that were renamed, old name: new name.
    """

    def mark(function: Raw) -> Raw:
        inner: Any = getattr(function, "__func__", function)
        inner.__saga_migrates__ = Migration(
            from_version=from_version, function=inner, steps=steps or {}
        )
        return function

    return mark


def marked(mark: object) -> Any:
    """Leave a mark on a function and return it."""

    def apply(function: Any) -> Any:
        function.__saga_marks__ = (mark, *marks_of(function))
        return function

    return apply


def marks_of(member: object) -> tuple[Any, ...]:
    """The marks of a method, in the order in which they read."""
    marks: tuple[Any, ...] = getattr(member, "__saga_marks__", ())
    return marks


def members_of(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    """Everything in the class body, bases first; what a subclass replaces stands in its place."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        found.update(vars(base))
    yield from found.items()


def migrations_of(cls: type[Any]) -> tuple[Migration, ...]:
    """What `@migrates` marks."""
    functions = (getattr(member, "__func__", member) for _, member in members_of(cls))
    found = [getattr(function, "__saga_migrates__", None) for function in functions]
    return tuple(each for each in found if isinstance(each, Migration))


def state_of(cls: type[Any], front_end: type[Any]) -> type[BaseModel]:
    """The model in `Saga[OrderState]`.

    Raises:
        WiringError: EB1230, there is none.
    """
    for each in cls.__mro__:
        for base in getattr(each, "__orig_bases__", ()):
            arguments = get_args(base)
            if get_origin(base) is front_end and isinstance(arguments[0], type):
                state: type[BaseModel] = arguments[0]
                return state
    raise misuse(cls, f"{front_end.__name__} names no state", f"{front_end.__name__}[OrderState]")


def answer_of(cls: type[Any], function: Any) -> Any:
    """The annotation of what a method returns.

    Raises:
        WiringError: EB1230, there is none, or it names what cannot be found.
    """
    try:
        hints = get_type_hints(function)
    except NameError as error:
        why = f"the annotations of {function.__name__} cannot be read: {error}"
        raise misuse(cls, why, "import what they name at run time, outside TYPE_CHECKING") from None
    if "return" not in hints:
        why = f"{function.__name__} does not say what it returns"
        raise misuse(cls, why, "annotate it: the message classes are read from there")
    return hints["return"]


def command_of(cls: type[Any], function: Any) -> type[Command[Any]]:
    """The command that a method returns.

    Raises:
        WiringError: EB1230, it returns something else.
    """
    answer = answer_of(cls, function)
    if not (isinstance(answer, type) and issubclass(answer, Command)) or answer.__wire__ is None:
        why = f"{function.__name__} returns {answer!r}"
        raise misuse(cls, why, "return a class of Command with type=")
    return answer


def misuse(cls: type[Any], why: str, next: str) -> WiringError:
    """The class cannot be read as a saga."""
    return WiringError(
        "EB1230",
        f"{cls.__qualname__} is no saga that can be run",
        where=f"{cls.__module__}.{cls.__qualname__}",
        why=why,
        next=next,
    )
