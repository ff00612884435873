"""The versions of a saga that a bus has, and what does not fit together."""

from uuid import UUID

import pytest

from eventbus import Context, EventBus, subscribe
from eventbus.errors import UnsafeConfigurationError, WiringError
from eventbus.memory import MemoryTransport
from eventbus.saga import Saga, local_step, starts_on
from eventbus.saga.family import families, sagas_in
from eventbus.saga.tenancy import LONGEST_TENANT, new_saga_id, tenant_of, with_tenant
from tests.unit.saga import shop
from tests.unit.saga.shop import OrderPlaced, OrderState, PlaceOrder


class Again(Saga[OrderState], name="place-order"):
    @starts_on(OrderPlaced)
    def begin(self, event: OrderPlaced) -> OrderState:
        return OrderState(order_id=event.order_id)


class Newer(Again, name="place-order", version=2):
    @local_step(no_undo="nothing is done")
    async def rest(self, s: OrderState, tx: object) -> None: ...


@subscribe(OrderPlaced, group="place-order")
async def place(event: OrderPlaced, ctx: Context) -> None: ...


def test_two_classes_of_one_version_are_refused() -> None:
    with pytest.raises(WiringError, match="EB7060"):
        families([PlaceOrder, Again])


def test_the_newest_version_starts_and_the_older_ones_go_on() -> None:
    family = families([PlaceOrder, Newer])["place-order"]
    assert family.newest.version == 2
    assert family.reads == (("place-order", 1), ("place-order", 2))
    assert family.has_local_steps


def test_a_module_hands_over_the_sagas_that_it_defines() -> None:
    assert PlaceOrder in sagas_in([shop])
    assert Saga not in sagas_in([shop])


def test_a_group_may_not_have_the_name_of_a_saga() -> None:
    with pytest.raises(WiringError, match="EB7064"):
        EventBus("memory://", storage="sqlite://", handlers=[PlaceOrder, place])


async def test_a_saga_without_a_storage_does_not_start() -> None:
    bus = EventBus(MemoryTransport(), handlers=[PlaceOrder])
    with pytest.raises(UnsafeConfigurationError, match="EB7065"):
        async with bus:
            raise AssertionError


@pytest.mark.parametrize("tenant", ["", "t1", "a/b", "x" * LONGEST_TENANT])
def test_the_id_of_a_saga_tells_how_much_of_its_key_is_the_tenant(tenant: str) -> None:
    saga_id = new_saga_id(tenant)
    assert tenant_of(saga_id, with_tenant(tenant, "A/1")) == tenant
    assert saga_id.version == 8
    assert UUID(str(saga_id)) == saga_id


def test_a_tenant_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="characters"):
        new_saga_id("x" * (LONGEST_TENANT + 1))


async def test_a_saga_may_run_on_rabbitmq_as_it_is_configured_by_default() -> None:
    bus = EventBus("amqp://localhost", storage="sqlite://", handlers=[PlaceOrder], service="shop")
    refused = [one.code for one in (await bus.describe()).findings if one.level == "refuse"]
    assert refused == []
