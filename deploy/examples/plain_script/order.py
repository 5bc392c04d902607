"""A box office in one script: an order and the SMS that confirms it, in one transaction."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from uuid import UUID, uuid4

import psycopg

from worker import EnqueueError, OperationNotFound, enqueue, result, sms

TABLE = """
    create table if not exists orders (
        seat text primary key, phone text not null, operation_id bigint not null unique)
"""


def order(conn: psycopg.Connection, seat: str, phone: str, key: UUID) -> None:
    """Write the order and its SMS; nothing, if that was done under this key before."""
    with conn.transaction():
        confirmation = sms.send(from_="SHOP", to=phone, data=f"Seat {seat} is yours")
        enqueued = enqueue(conn, confirmation, idempotency_key=key)
        if enqueued.created:
            conn.execute("insert into orders values (%s, %s, %s)", [seat, phone, enqueued.id])


def outcome(conn: psycopg.Connection, seat: str) -> str:
    """Tell what became of the SMS for a seat."""
    row = conn.execute("select operation_id from orders where seat = %s", [seat]).fetchone()
    if row is None:
        return "nobody has ordered it"
    try:
        found = result(conn, row[0])
    except OperationNotFound:
        return "too long ago to tell"
    return f"{found.state}, id {found.provider_id}" if found.provider_id else found.state


def main() -> None:
    """Order, or tell what became of an order."""
    parser = ArgumentParser(description="Order a seat; without a phone: tell what became of its SMS.")
    parser.add_argument("seat")
    parser.add_argument("phone", nargs="?")
    parser.add_argument("--key", type=UUID, default=uuid4(), help="a UUID: under it, only one order is made")
    args = parser.parse_args()
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as conn:
        conn.execute(TABLE)
        if args.phone is None:
            print(f"Seat {args.seat}: {outcome(conn, args.seat)}")
            return
        try:
            order(conn, args.seat, args.phone, args.key)
        except psycopg.errors.UniqueViolation:
            sys.exit("This seat is taken. Nothing was ordered, and nobody is texted.")
        except EnqueueError as error:
            sys.exit(f"Nothing was ordered: {error}")
    print(f"Seat {args.seat} is yours. An SMS will confirm it. (To be sure, repeat it with --key {args.key})")


if __name__ == "__main__":
    main()
