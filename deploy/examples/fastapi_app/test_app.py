"""The app's own tests, with the fixture ``ringonce`` that comes with ``ringonce[testing]``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import app
import httpx
import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from worker.testing import Ringonce


@pytest.fixture
async def customer(ringonce: Ringonce, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """Whoever asks the app, which is on the test's own database."""
    engine = create_async_engine(make_url(ringonce.url).set(drivername="postgresql+psycopg"))
    monkeypatch.setattr(app, "engine", engine)
    app.Session.configure(bind=engine)
    transport = httpx.ASGITransport(app.app)
    async with (
        app.lifespan(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://shop.invalid") as customer,
    ):
        yield customer


async def order(customer: httpx.AsyncClient, seat: str) -> httpx.Response:
    return await customer.post(
        "/orders",
        json={"seat": seat, "phone": "+919876543210"},
        headers={"Idempotency-Key": str(uuid4())},
    )


async def confirmation(customer: httpx.AsyncClient, number: int) -> str:
    told: str = (await customer.get(f"/orders/{number}")).json()["confirmation"]
    return told


async def test_the_customer_is_texted_once_although_the_answer_is_lost(
    ringonce: Ringonce, customer: httpx.AsyncClient
) -> None:
    number = (await order(customer, "A7")).json()["order"]
    ringonce.assert_enqueued("sms.send", {"data": "Seat A7 is yours"})
    assert await confirmation(customer, number) == "on its way"
    ringonce.sandbox.script(["drop"])
    await ringonce.adrain()
    ringonce.assert_sent("sms.send")
    assert await confirmation(customer, number) == "sent"


async def test_nobody_is_texted_about_a_seat_that_is_taken(
    ringonce: Ringonce, customer: httpx.AsyncClient
) -> None:
    answers = [(await order(customer, "A7")).status_code for _ in range(2)]
    assert answers == [201, 409]
    ringonce.assert_enqueued("sms.send", times=1)


async def test_what_is_not_committed_yet_is_seen_in_its_own_session(
    ringonce: Ringonce, customer: httpx.AsyncClient
) -> None:
    async with app.Session() as session:
        await app.place_order(session, app.NewOrder(seat="A7", phone="+919876543210"), uuid4())
        mine = await ringonce.aenqueued(conn=session)
        ringonce.assert_enqueued("sms.send", among=mine)
    ringonce.assert_nothing_enqueued()
    assert (await customer.get("/orders/1")).status_code == 404
