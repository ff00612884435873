"""What is sold, to whom: events with personal fields, and everything that may see them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any

from eventbus import Context, Event, Forgotten, Group, Personal, RetryPolicy, subscribe
from eventbus.sourcing import (
    Aggregate,
    FoldingProjection,
    ReadModel,
    SubjectForgotten,
    applies,
    projects,
)
from eventbus.testing.conformance.samples import unique

MASTER = os.urandom(32)
ADA, BOB = "ada.lovelace@example.com", "bob@example.com"


class SignedUp(Event, type="shop.signed-up", key="customer_id"):
    customer_id: str
    email: Annotated[str, Personal(subject="customer_id")]


class Welcome(Event, type="shop.welcome", key="customer_id"):
    customer_id: str
    email: Annotated[str, Personal(subject="customer_id")]


class Bounced(Event, type="shop.bounced", key="customer_id"):
    customer_id: str
    email: Annotated[str, Personal(subject="customer_id")]


@dataclass
class Seen:
    """What handlers got."""

    events: list[Event] = field(default_factory=list[Event])
    customers: str = ""  # the projections of this test
    failing: str = ""


seen = Seen()


@subscribe(SignedUp, group="welcome")
async def welcome(event: SignedUp, ctx: Context) -> None:
    seen.events.append(event)
    await ctx.publish(Welcome(customer_id=event.customer_id, email=event.email))


@subscribe(Welcome, group="mail")
async def mail(event: Welcome) -> None:
    seen.events.append(event)


@subscribe(Bounced, group=Group("dying", retry=RetryPolicy(in_place=1, parked=())))
async def die(event: Bounced) -> None:
    raise ValueError(f"no mailbox {event.email} for {event.customer_id}")


@subscribe(
    Bounced, group=Group("waiting", retry=RetryPolicy(in_place=0, parked=(timedelta(hours=1),)))
)
async def wait(event: Bounced) -> None:
    raise ConnectionError(f"cannot reach {event.email}")


def projections() -> Sequence[Any]:
    """With tables of their own; one clears its plain text, the other fails and says on what."""
    seen.customers, seen.failing = unique("customers"), unique("failing")

    class Customer(ReadModel, table=seen.customers, key="customer_id"):
        customer_id: str
        email: str = ""

    class Failed(ReadModel, table=seen.failing, key="customer_id"):
        customer_id: str

    class Customers(FoldingProjection[Customer], name=seen.customers):
        @projects(SignedUp, key=lambda event: event.customer_id)
        def signed_up(self, row: Customer, event: SignedUp) -> Customer:
            return row.model_copy(update={"email": event.email})

        @projects(SubjectForgotten, key=lambda event: event.subject)
        def forgotten(self, row: Customer, event: SubjectForgotten) -> Customer:
            return row.model_copy(update={"email": Forgotten()})

    class Failing(FoldingProjection[Failed], name=seen.failing):
        @projects(Bounced, key=lambda event: event.customer_id)
        def bounced(self, row: Failed, event: Bounced) -> Failed:
            raise ValueError(f"what is {event.email}?")

    return Customers, Failing


class Account(Aggregate, stream="account", snapshot=2):
    email: str = ""
    changes: int = 0

    @applies(SignedUp)
    def on_signed_up(self, event: SignedUp) -> None:
        self.email = event.email
        self.changes += 1


def handlers(*, rows: bool = True) -> list[Any]:
    """Everything, and nothing seen yet; without `rows` no read model keeps plain text."""
    seen.events.clear()
    customers, failing = projections()
    return [welcome, mail, die, wait, failing, *([customers] if rows else [])]
