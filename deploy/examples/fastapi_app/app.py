"""A box office on FastAPI and SQLAlchemy: an order and the SMS that confirms it, in one transaction."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

from fastapi import FastAPI, Header, HTTPException
from pydantic import BaseModel
from sqlalchemy import BigInteger, make_url, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from worker import InvalidPayload, KeyConflict, OperationNotFound, aenqueue, aresult, sms

engine = create_async_engine(make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg"))
Session = async_sessionmaker(engine, expire_on_commit=False)

TOLD = {
    "queued": "on its way",
    "in_flight": "on its way",
    "succeeded": "sent",
    "unresolved": "sent, perhaps: we are looking into it",
}
"""What a customer is told of the confirmation; in any other state it was not sent, and will not be."""


class Base(DeclarativeBase):
    """Our tables."""


class Order(Base):
    """A seat, and the operation that tells its owner."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    seat: Mapped[str] = mapped_column(unique=True)
    phone: Mapped[str]
    operation_id: Mapped[int] = mapped_column(BigInteger, unique=True)


class NewOrder(BaseModel):
    """What a customer asks for."""

    seat: str
    phone: str


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Make the tables; a real app migrates."""
    async with engine.begin() as conn:
        await conn.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=201)
async def post_order(new: NewOrder, idempotency_key: Annotated[UUID, Header()]) -> dict[str, object]:
    """Order a seat. The same request under the same Idempotency-Key gets the same order, however often."""
    try:
        async with Session.begin() as session:
            order = await place_order(session, new, idempotency_key)
    except IntegrityError:
        raise HTTPException(409, "This seat is taken. Nothing was ordered, and nobody is texted.") from None
    except KeyConflict:
        raise HTTPException(422, "This Idempotency-Key stands for another order.") from None
    except InvalidPayload as error:
        raise HTTPException(422, str(error)) from None
    return {"order": order.id, "message": f"Seat {order.seat} is yours. An SMS will confirm it."}


async def place_order(session: AsyncSession, new: NewOrder, key: UUID) -> Order:
    """Write the order and its SMS; or find the order that was written under this key.

    A shop that knows its customers makes the key theirs: ``uuid5(customer.id, str(key))``.
    """
    message = sms.send(from_="SHOP", to=new.phone, data=f"Seat {new.seat} is yours")
    enqueued = await aenqueue(session, message, idempotency_key=key)
    if not enqueued.created:
        orders = await session.scalars(select(Order).where(Order.operation_id == enqueued.id))
        return orders.one()
    order = Order(seat=new.seat, phone=new.phone, operation_id=enqueued.id)
    session.add(order)
    await session.flush()
    return order


@app.get("/orders/{number}")
async def get_order(number: int) -> dict[str, object]:
    """Tell what became of an order, and of its SMS."""
    async with Session() as session:
        order = await session.get(Order, number)
        if order is None:
            raise HTTPException(404, "There is no such order.")
        told = await confirmation(session, order)
    return {"order": order.id, "seat": order.seat, "confirmation": told}


async def confirmation(session: AsyncSession, order: Order) -> str:
    """What a customer is told of the SMS."""
    try:
        found = await aresult(session, order.operation_id)
    except OperationNotFound:
        return "too long ago to tell"
    return TOLD.get(found.state, "not sent")
