"""The billing service: it charges cards, and keeps the ledger by double entry.

A card is good for 5,000.00 an order; who is no known customer is trusted with 2,000.00. What was
charged is held until the parcel leaves; only then it is a sale. Every posting moves an amount from
one account to another, so the balances of all accounts are nothing at any moment, to the penny.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta

from eventbus import (
    Command,
    Context,
    Group,
    Reject,
    Rejection,
    Reply,
    handles,
    subscribe,
    undoes,
)
from eventbus.saga import Undone
from examples.order_book.events import CreditNoteIssued, DebtAdjusted, Invoice, StockCorrected
from examples.order_book.shipping import ParcelLeft

CARD_LIMIT = 5_000_000  # thousandths, as all money
GUEST_LIMIT = 2_000_000
TABLES = (
    "CREATE TABLE IF NOT EXISTS ledger (posting text, account text, amount bigint NOT NULL,"
    " PRIMARY KEY (posting, account))",
)
BILLING = Group("billing", lanes=4, timeout=timedelta(seconds=15))
Posting = tuple[str, str, str, int]  # its name, the account that gets, the one that gives, how much


class CardCharged(Reply, type="billing.card-charged"):
    """The money is here, and held."""


class CardDeclined(Rejection, type="billing.card-declined"):
    """It is not good for that much."""

    limit: int


class ChargeCard(
    Command[CardCharged], type="billing.charge-card", key="order_id", rejects=(CardDeclined,)
):
    """All of the order."""

    order_id: str
    customer: int | None
    amount: int


class RefundCard(Command[Undone], type="billing.refund-card", key="order_id"):
    """All of it back."""

    order_id: str
    amount: int


@handles(ChargeCard, group=BILLING)
async def charge(command: ChargeCard, ctx: Context) -> CardCharged:
    """A charge of an order stands in the ledger once: its name is a primary key."""
    if is_declined(command.customer, command.amount):
        raise Reject(CardDeclined(limit=limit_of(command.customer)))
    await post(ctx, [(f"charge {command.order_id}", "cards", "held", command.amount)])
    return CardCharged()


@undoes(charge, RefundCard)
async def refund(command: RefundCard, done: CardCharged, ctx: Context) -> None:
    """A ledger forgets nothing: the charge is posted back."""
    await post(ctx, [(f"refund {command.order_id}", "held", "cards", command.amount)])


@subscribe(ParcelLeft, group=BILLING, batch=True)
async def sold(parcels: Sequence[ParcelLeft], ctx: Context) -> None:
    """What was held is ours now; a batch of parcels is one statement."""
    await post(ctx, [(f"sale {one.order_id}", "held", "sales", one.sale.amount) for one in parcels])


@subscribe(CreditNoteIssued, group=BILLING, batch=True)
async def returned(notes: Sequence[CreditNoteIssued], ctx: Context) -> None:
    """Goods that were sold came back. Cancelled orders are none of these: their sagas refund."""
    await post(ctx, [_booked(note, "returns") for note in notes if note.cancels is None])


@subscribe(DebtAdjusted, group=BILLING, batch=True)
async def written_off(debts: Sequence[DebtAdjusted], ctx: Context) -> None:
    """Money that will never come."""
    await post(ctx, [_booked(debt, "bad debts") for debt in debts])


@subscribe(StockCorrected, group=BILLING, batch=True)
async def corrected(corrections: Sequence[StockCorrected], ctx: Context) -> None:
    """Goods that were lost or found, at the price on the invoice, which mostly is none."""
    await post(ctx, [_booked(one, "corrections") for one in corrections])


async def post(ctx: Context, postings: Iterable[Posting]) -> None:
    """Both entries of each."""
    await ctx.sql.execute_many(
        "INSERT INTO ledger (posting, account, amount) VALUES ($1, $2, $3)",
        [
            entry
            for name, gets, gives, amount in postings
            for entry in ((name, gets, amount), (name, gives, -amount))
        ],
    )


def _booked(invoice: Invoice, account: str) -> Posting:
    return f"invoice {invoice.order_id}", "cards", account, invoice.sale.amount


def is_declined(customer: int | None, amount: int) -> bool:
    """Whether a card is not good for so much."""
    return amount > limit_of(customer)


def limit_of(customer: int | None) -> int:
    """What a card is good for."""
    return GUEST_LIMIT if customer is None else CARD_LIMIT
