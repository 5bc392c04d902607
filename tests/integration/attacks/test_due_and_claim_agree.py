"""What the bell is told and what a claim finds are one: else work would stand still, or the bell spin."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Final

import pytest

from tests.integration.outbox.by_hand import MINUTE, SECOND, Outbox
from tests.still import template

__all__ = ["template"]

ACCOUNTS: Final = ("a", "b", "c")
ENDPOINTS: Final = ("sms.send", "voice.call")
TURNS: Final = 60
MOMENT: Final = 0.5
"""Seconds in which a test gets from one statement to the next."""


def at_random(outbox: Outbox, chance: random.Random) -> None:
    """Do to the outbox one of the things that decide what may be claimed."""
    account, endpoint = chance.choice(ACCOUNTS), chance.choice(ENDPOINTS)
    few = chance.choice([None, 1, 2])
    rate = chance.choice([None, 0.2, 5.0])
    moves = {
        "enqueue": lambda: outbox.enqueue(
            endpoint,
            account=account,
            lane=chance.choice(["", "x", "ÿ"]),
            priority=chance.randrange(4),
            wait=chance.choice([None, MINUTE]),
            deadline=chance.choice([None, 2 * MINUTE]),
        ),
        "limit": lambda: outbox.change("account", account, max_in_flight=few),
        "rate": lambda: outbox.change("account", account, rate_per_second=rate, burst=few if rate else None),
        "break": lambda: outbox.do(
            b"update outbox.account_meter set probe_at = clock_timestamp() + %(wait)s,"
            b" probe_wait = 1, doubt_run = 20 where account = %(account)s",
            account=account,
            wait=chance.choice([-SECOND, MINUTE]),
        ),
        "pause": lambda: outbox.do(b"select outbox.pause(%(name)s, 'x')", name=account),
        "resume": lambda: outbox.do(b"select outbox.resume(%(name)s)", name=account),
        "block": lambda: outbox.do(
            b"select outbox.block(%(account)s, %(endpoint)s, %(seconds)s, 'x')",
            account=account,
            endpoint=chance.choice([None, endpoint]),
            seconds=chance.choice([0.0, 30.0]),
        ),
        "go on": lambda: outbox.go_on(chance.choice([SECOND, MINUTE, timedelta(minutes=3)])),
        "rescue": outbox.rescue,
    }
    chance.choice(list(moves.values()))()


@pytest.mark.parametrize("seed", range(3))
def test_what_is_due_can_be_claimed_and_nothing_else(outbox: Outbox, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    for name in ACCOUNTS:
        outbox.add_account(name)
    for _ in range(TURNS):
        for _ in range(chance.randrange(1, 5)):
            at_random(outbox, chance)
        before = outbox.value(b"select count(*) from outbox.operation where state = 'queued'")
        due, next_in = outbox.due()
        claimed = len(outbox.claim(chance.choice([1, 100])))
        left = outbox.value(b"select count(*) from outbox.operation where state = 'queued'")
        soon = next_in is not None and next_in < MOMENT
        assert due == 0 or left < before, "the bell would spin"
        assert soon or left == before, "work would stand still"
        assert soon or (due, claimed) == (0, 0)
