"""All wiring errors appear when the bus is built, with what was found and what was meant."""

import sys
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

from eventbus import (
    Command,
    Context,
    Event,
    EventBus,
    Group,
    Reply,
    Undone,
    Untyped,
    handles,
    subscribe,
    undoes,
)
from eventbus.errors import ConfigurationError, UnsafeConfigurationError, WiringError


class Placed(Event, type="wiring.placed", key="order"):
    order: str


class Shipped(Event, type="wiring.shipped"):
    order: str


class Base(Event):
    order: str


class Charged(Reply, type="wiring.charged"):
    pass


class Charge(Command[Charged], type="wiring.charge"):
    pass


class Refund(Command[Undone], type="wiring.refund"):
    pass


@handles(Charge, group="till")
async def charge(command: Charge, ctx: Context) -> Charged:
    return Charged()


def error_of(*handlers: Any) -> WiringError:
    with pytest.raises(WiringError) as caught:
        EventBus("memory://", handlers=handlers)
    text = str(caught.value)
    assert all(part in text for part in ("\n  where ", "\n  why   ", "\n  next  "))
    return caught.value


def test_an_undo_names_a_handler_of_a_command() -> None:
    async def unmarked(command: Charge, ctx: Context) -> Charged:
        return Charged()

    with pytest.raises(WiringError, match="EB1250"):
        undoes(unmarked, Refund)


def test_an_undo_takes_a_command_what_was_done_and_a_context() -> None:
    @undoes(charge, Refund)  # type: ignore[arg-type]
    async def short(command: Refund, ctx: Context) -> None: ...

    @undoes(charge, Refund)  # type: ignore[arg-type]
    def synchronous(command: Refund, done: Charged, ctx: Context) -> None: ...

    @undoes(charge, Refund)
    async def unbound(self: Any, command: Any, done: Any) -> None: ...

    for function in (short, synchronous, unbound):
        assert error_of(charge, function).code == "EB1251"


def test_an_undo_outside_transactions_takes_none() -> None:
    @handles(Charge, group=Group("far", transactional=False))
    async def far(command: Charge, ctx: Context) -> Charged:
        return Charged()

    @undoes(far, Refund)
    async def sure(command: Refund, done: Charged, ctx: Context) -> None: ...

    @undoes(far, Refund)
    async def careful(command: Refund, done: Charged | None, ctx: Context) -> None: ...

    assert error_of(far, sure).code == "EB1252"
    EventBus("memory://", storage="sqlite://", handlers=[far, careful])


def test_a_command_that_undoes_is_not_handled_like_a_forward_command() -> None:
    @handles(Refund, group="a")
    async def refund(command: Refund, ctx: Context) -> Undone:
        return Undone()

    assert error_of(refund).code == "EB1253"


def test_an_undo_needs_a_storage_and_is_the_only_handler_of_its_command() -> None:
    @undoes(charge, Refund)
    async def refund(command: Refund, done: Charged, ctx: Context) -> None: ...

    @undoes(charge, Refund)
    async def again(command: Refund, done: Charged, ctx: Context) -> None: ...

    assert error_of(charge, refund).code == "EB1254"
    EventBus("memory://", storage="sqlite://", handlers=[charge, refund])
    with pytest.raises(WiringError, match="EB1208"):
        EventBus("memory://", storage="sqlite://", handlers=[charge, refund, again])


def test_a_function_without_a_mark_is_no_handler() -> None:
    async def plain(event: Placed) -> None: ...

    assert error_of(plain).code == "EB1204"


def test_a_class_with_marked_methods_needs_an_object() -> None:
    class Mailer:
        @subscribe(Placed, group="mail")
        async def placed(self, event: Placed) -> None: ...

    error = error_of(Mailer)
    assert error.code == "EB1204"
    assert "hand over an object" in error.next


def test_a_method_without_its_object_is_told_apart() -> None:
    class Mailer:
        @subscribe(Placed, group="mail")
        async def placed(self, event: Placed) -> None: ...

    assert error_of(Mailer.placed).code == "EB1207"


def test_a_handler_takes_event_or_event_and_context() -> None:
    @subscribe(Placed, group="g")  # type: ignore[arg-type]  # the mistake under test
    async def three(event: Placed, ctx: Context, more: int) -> None: ...

    @subscribe(Placed, group="g")  # type: ignore[arg-type]  # the mistake under test
    async def none() -> None: ...

    assert error_of(three).code == "EB1207"
    assert error_of(none).code == "EB1207"


def test_a_key_that_names_no_field_is_found() -> None:
    class Wrong(Event, type="wiring.wrong", key="oder"):
        order: str

    @subscribe(Wrong, group="g")
    async def handler(event: Wrong) -> None: ...

    error = error_of(handler)
    assert error.code == "EB1202"
    assert "order" in error.why


def test_two_classes_of_one_type_are_refused() -> None:
    class Other(Event, type="wiring.placed"):
        pass

    @subscribe(Placed, group="a")
    async def one(event: Placed) -> None: ...

    @subscribe(Other, group="b")
    async def two(event: Other) -> None: ...

    assert error_of(one, two).code == "EB1203"


def test_a_handler_handed_over_twice_is_refused() -> None:
    @subscribe(Placed, group="g")
    async def handler(event: Placed) -> None: ...

    assert error_of(handler, handler).code == "EB1205"


def test_two_groups_of_one_name_must_be_equal() -> None:
    @subscribe(Placed, group="g")
    async def one(event: Placed) -> None: ...

    @subscribe(Placed, group=Group("g", timeout=timedelta(seconds=1)))
    async def two(event: Placed) -> None: ...

    error = error_of(one, two)
    assert error.code == "EB1206"
    assert "timeout" in error.why


def test_a_command_has_one_handler() -> None:
    @handles(Charge, group="a")
    async def one(command: Charge, ctx: Context) -> Charged:
        return Charged()

    @handles(Charge, group="b")
    async def two(command: Charge, ctx: Context) -> Charged:
        return Charged()

    assert error_of(one, two).code == "EB1208"


def test_filter_and_batch_take_one_class() -> None:
    mark: Any = subscribe

    async def handler(events: object) -> None: ...

    error = error_of(mark(Placed, Shipped, group="g", batch=True)(handler))
    assert error.code == "EB1209"

    async def another(events: object) -> None: ...

    error = error_of(mark(Placed, group="g", batch=True, filter=lambda event: True)(another))
    assert error.code == "EB1209"


@pytest.mark.parametrize("name", ["user", "user.", ".created", "*.created", "user.cre*", "*"])
def test_names_and_wildcards_are_checked(name: str) -> None:
    @subscribe(name, group="g")
    async def handler(what: Untyped) -> None: ...

    assert error_of(handler).code == "EB1210"


def test_a_base_class_needs_known_subclasses() -> None:
    @subscribe(Base, group="g")
    async def handler(event: Base) -> None: ...

    assert error_of(handler).code == "EB1212"


def test_a_wire_type_is_checked_where_the_class_stands() -> None:
    with pytest.raises(WiringError) as caught:
        type("Bad", (Event,), {}, type="NoDot")
    assert caught.value.code == "EB1201"


def test_a_module_is_handed_over_whole_without_what_it_imports() -> None:
    module = ModuleType("wiring_shop")

    class Moved(Base, type="wiring.moved"):
        pass

    @subscribe(Moved, group="g")
    async def handler(event: Moved) -> None: ...

    @subscribe(Base, group="all")
    async def everything(event: Base) -> None: ...

    for value in (Moved, handler, everything):
        value.__module__ = "wiring_shop"
    vars(module).update(Moved=Moved, handler=handler, everything=everything, Placed=Placed)
    sys.modules["wiring_shop"] = module
    try:
        bus = EventBus("memory://", handlers=[module])
    finally:
        del sys.modules["wiring_shop"]
    assert bus._wiring.registry.classes == (Moved,)
    assert set(bus._wiring.groups) == {"g", "all"}


async def test_strict_refuses_what_is_only_a_warning() -> None:
    @subscribe(Placed, group=Group("g", start="latest"))
    async def handler(event: Placed) -> None: ...

    async with EventBus("memory://", handlers=[handler]):
        pass
    with pytest.raises(UnsafeConfigurationError) as caught:
        await EventBus("memory://", handlers=[handler], strict=True).__aenter__()
    assert caught.value.code == "EB1101"
    assert "EB1107" in caught.value.why


async def test_strict_publishes_registered_types_only() -> None:
    async with EventBus("memory://", strict=True) as bus:
        with pytest.raises(WiringError) as caught:
            await bus.publish(Placed(order="A-1"))
    assert caught.value.code == "EB1211"


@pytest.mark.parametrize(
    ("transport", "storage", "code"),
    [
        ("carrier-pigeon://", None, "EB1003"),
        ("nothing", None, "EB1003"),
        ("memory://", "stone://", "EB1004"),
    ],
)
def test_a_url_without_an_adapter_names_those_that_are_there(
    transport: str, storage: str | None, code: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EventBus(transport, storage=storage)
    assert caught.value.code == code
    assert ("memory" if storage is None else "sqlite") in caught.value.why


async def test_a_message_class_handed_over_is_known() -> None:
    class Alone(Event, type="wiring.alone"):
        pass

    bus = EventBus("memory://", handlers=[Alone])
    assert (await bus.describe()).types.get("wiring.alone") is Alone
