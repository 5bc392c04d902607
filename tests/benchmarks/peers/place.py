"""What all of the peers' programs are told by their environment, and what they keep answers in."""

from __future__ import annotations

import os
from uuid import uuid4

DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
REDIS_URL = os.environ.get("BENCH_REDIS_URL", "")
URL = os.environ["BENCH_API_URL"] + "/sms/v1/messages/"
IN_FLIGHT = int(os.environ["BENCH_IN_FLIGHT"])

REQUEST_TABLE = "create table request (key uuid primary key, payload text not null)"
"""Where a queue's jobs cannot carry what is to be sent, or its users would not have them carry it."""
ANSWER_TABLE = (
    "create table answer (key uuid primary key, status int not null, headers json, body bytea not null)"
)


def requests(count: int) -> list[tuple[str, str]]:
    """That many keys with the payload to be sent under each."""
    return [
        (str(uuid4()), f'{{"to": "+1555{place:07}", "body": "Your code is 1234"}}') for place in range(count)
    ]


def headers(key: str) -> dict[str, str]:
    """What each request is sent with."""
    return {
        "Idempotency-Key": key,
        "Content-Type": "application/json",
        "Authorization": "Basic YmVuY2g6YmVuY2g=",
    }
