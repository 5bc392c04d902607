"""Order a seat, ask what became of it, and be called back."""

from __future__ import annotations

import json
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_GET, require_POST

from box_office.models import Order
from worker import (
    InvalidPayload,
    KeyConflict,
    OperationNotFound,
    aenqueue,
    aresult,
    enqueue,
    sms,
    voice,
)

TOLD = {
    "queued": "on its way",
    "in_flight": "on its way",
    "succeeded": "sent",
    "unresolved": "sent, perhaps: we are looking into it",
}
"""What a customer is told of the confirmation; in any other state it was not sent, and will not be."""


@require_POST
def post_order(request: HttpRequest) -> JsonResponse:
    """Order a seat. The same request under the same Idempotency-Key gets the same order, however often."""
    try:
        key, new = _key(request), json.loads(request.body)
        order = place_order(str(new["seat"]), str(new["phone"]), key)
    except IntegrityError:
        return _refusal(409, "This seat is taken. Nothing was ordered, and nobody is texted.")
    except KeyConflict:
        return _refusal(422, "This Idempotency-Key stands for another order.")
    except InvalidPayload as error:
        return _refusal(422, str(error))
    except (KeyError, TypeError, ValueError):
        return _refusal(422, "Send a seat, a phone, and a UUID as Idempotency-Key.")
    told = {"order": order.pk, "message": f"Seat {order.seat} is yours. An SMS will confirm it."}
    return JsonResponse(told, status=201)


@transaction.atomic
def place_order(seat: str, phone: str, key: UUID) -> Order:
    """Write the order and its SMS; or find the order that was written under this key.

    A shop that knows its customers makes the key theirs: ``uuid5(customer.uuid, str(key))``.
    """
    confirmation = sms.send(from_="SHOP", to=phone, data=f"Seat {seat} is yours")
    enqueued = enqueue(connection, confirmation, idempotency_key=key)
    if not enqueued.created:
        return Order.objects.get(operation_id=enqueued.id)
    return Order.objects.create(seat=seat, phone=phone, operation_id=enqueued.id)


@require_GET
async def get_order(_: HttpRequest, number: int) -> JsonResponse:
    """Tell what became of an order, and of its SMS."""
    order = await Order.objects.filter(pk=number).afirst()
    if order is None:
        return _refusal(404, "There is no such order.")
    told = {"order": order.pk, "seat": order.seat, "confirmation": await _confirmation(order)}
    return JsonResponse(told)


@require_POST
async def post_call(request: HttpRequest, number: int) -> JsonResponse:
    """Have the customer called. Asynchronous views have no transactions: this one writes nothing else.

    One that does gives ``sync_to_async`` a function such as ``place_order``.
    """
    order = await Order.objects.filter(pk=number).afirst()
    if order is None:
        return _refusal(404, "There is no such order.")
    try:
        call = voice.call(from_="+6512345678", to=order.phone)
        await aenqueue(connection, call, idempotency_key=_key(request))
    except (KeyError, ValueError, KeyConflict):
        return _refusal(422, "Send a new UUID as Idempotency-Key.")
    return JsonResponse({"message": "We will call you."}, status=202)


async def _confirmation(order: Order) -> str:
    try:
        found = await aresult(connection, order.operation_id)
    except OperationNotFound:
        return "too long ago to tell"
    return TOLD.get(found.state, "not sent")


def _key(request: HttpRequest) -> UUID:
    return UUID(request.headers["Idempotency-Key"])


def _refusal(status: int, detail: str) -> JsonResponse:
    return JsonResponse({"detail": detail}, status=status)
