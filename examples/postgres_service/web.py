"""The web side: writes and publishes in the session's own transaction, handles nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from eventbus import EventBus
from examples.postgres_service.events import OrderPlaced
from examples.postgres_service.tables import URL, Bill, Order, Stock, engine_of


class NewOrder(BaseModel):
    """What a customer asks for."""

    order_id: str
    item: str
    cents: int


def make_app(url: str) -> FastAPI:
    """The application on that database."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = engine_of(url)
        app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
        # client(): publishes only. Relay and handlers are the worker's.
        async with EventBus("memory://", storage=url, service="shop").client() as app.state.bus:
            yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)
    app.post("/orders", status_code=201)(place)
    app.get("/orders/{order_id}")(show)
    return app


async def session_of(request: Request) -> AsyncIterator[AsyncSession]:
    """One session for the request."""
    async with request.app.state.sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(session_of)]


async def place(order: NewOrder, request: Request, session: Session) -> str:
    """The order, its item and its event: one commit, by `session.begin()`."""
    bus: EventBus = request.app.state.bus
    try:
        async with session.begin(), bus.transaction(session) as tx:
            session.add(Order(**order.model_dump()))
            await tx.publish(OrderPlaced(order_id=order.order_id, cents=order.cents))
            one_less = update(Stock).where(Stock.item == order.item)
            taken = await session.execute(
                one_less.values(amount=Stock.amount - 1).returning(Stock.amount)
            )
            if taken.first() is None:
                raise HTTPException(404, f"no such item: {order.item}")
    except IntegrityError as error:
        raise HTTPException(409, "ordered already, or sold out") from error
    return order.order_id


async def show(order_id: str, session: Session) -> dict[str, object]:
    """What became of it."""
    order = await session.get(Order, order_id)
    if order is None:
        raise HTTPException(404)
    bills = await session.scalars(select(Bill).where(Bill.order_id == order_id))
    return {"order_id": order_id, "cents": order.cents, "bills": len(bills.all())}


app = make_app(URL)
