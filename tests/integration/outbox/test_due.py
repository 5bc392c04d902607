"""``due`` says what a claim would do, without doing it: bells ring and drains linger by its word."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.outbox.by_hand import HOUR, MINUTE, SECOND, Outbox
from tests.unit.attempts import TIMED_OUT

ACCOUNTS: Final = ("a", "b")
ENDPOINTS: Final = ("sms.send", "voice.call")


@dataclass(frozen=True)
class Gate:
    """What may stand between an account's work and a claim."""

    max_in_flight: int | None
    rate_per_second: float | None
    paused: bool
    blocked: float | None
    """Seconds; 0: only probes may pass."""
    throttled: float | None
    broken: float | None
    """Seconds until the breaker lets a probe through."""


@dataclass(frozen=True)
class Work:
    account: str
    endpoint: str
    wait: int
    """Seconds until it may be sent."""


gates = st.builds(
    Gate,
    max_in_flight=st.sampled_from([None, None, 1, 2]),
    rate_per_second=st.sampled_from([None, None, 0.2, 1.0]),
    paused=st.sampled_from([False, False, False, True]),
    blocked=st.sampled_from([None, None, 0, 60]),
    throttled=st.sampled_from([None, None, 0, 60]),
    broken=st.sampled_from([None, None, None, 0, 45]),
)
works = st.builds(
    Work,
    account=st.sampled_from(ACCOUNTS),
    endpoint=st.sampled_from(ENDPOINTS),
    wait=st.sampled_from([0, 0, 0, 90, 4000]),
)


def raise_gates(outbox: Outbox, account: str, gate: Gate) -> None:
    outbox.change("account", account, max_in_flight=gate.max_in_flight, rate_per_second=gate.rate_per_second)
    if gate.paused:
        outbox.do(b"select outbox.pause(%(account)s, 'test')", account=account)
    if gate.broken is not None:
        outbox.do(
            b"update outbox.account_meter set doubt_run = 20, probe_wait = 1,"
            b" probe_at = clock_timestamp() + %(wait)s * interval '1 s' where account = %(account)s",
            account=account,
            wait=gate.broken,
        )
    for endpoint, seconds in ((None, gate.blocked), ("sms.send", gate.throttled)):
        if seconds is not None:
            outbox.do(
                b"select outbox.block(%(account)s, %(endpoint)s, %(seconds)s, 'test')",
                account=account,
                endpoint=endpoint,
                seconds=seconds,
            )


def agrees_with_a_claim(outbox: Outbox) -> bool:
    """Whether something is due; and that a claim finds exactly then something to lease."""
    count, next_in = outbox.due()
    with outbox.conn.transaction(force_rollback=True):
        assert (len(outbox.claim()) > 0) == (count > 0)
    assert count == 0 or (next_in is not None and next_in <= 0)
    return count > 0


@given(
    st.fixed_dictionaries(dict.fromkeys(ACCOUNTS, gates)),
    st.lists(works, max_size=6),
    st.lists(works, max_size=3),
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_something_is_due_exactly_when_a_claim_would_lease_it(
    outbox: Outbox, gate: dict[str, Gate], before: list[Work], waiting: list[Work]
) -> None:
    with outbox.conn.transaction(force_rollback=True):
        for account in ACCOUNTS:
            outbox.add_account(account)
        for work in before:
            outbox.enqueue(work.endpoint, account=work.account, wait=work.wait * SECOND)
        outbox.claim(2)
        for account in ACCOUNTS:
            raise_gates(outbox, account, gate[account])
        for work in waiting:
            outbox.enqueue(work.endpoint, account=work.account, wait=work.wait * SECOND)
        follow_its_word(outbox)


def follow_its_word(outbox: Outbox) -> None:
    """Nothing is due before the time that it names, and something is then."""
    if agrees_with_a_claim(outbox):
        return
    _, next_in = outbox.due()
    if next_in is None:
        outbox.go_on(24 * HOUR)
        assert not agrees_with_a_claim(outbox)
        return
    if next_in > 2:
        outbox.go_on(timedelta(seconds=next_in) - SECOND)
        assert not agrees_with_a_claim(outbox)
        outbox.go_on(1.5 * SECOND)
    else:
        outbox.go_on(timedelta(seconds=next_in + 0.5))
    assert agrees_with_a_claim(outbox)


def test_nothing_is_due_of_an_empty_outbox_and_nothing_will_be(outbox: Outbox) -> None:
    assert outbox.due() == (0, None)


def test_due_work_is_counted_up_to_what_was_asked_for(outbox: Outbox) -> None:
    outbox.enqueue_each(5)
    assert outbox.due(3)[0] == 3
    count, next_in = outbox.due(100)
    assert count == 5
    assert next_in is not None
    assert -MINUTE < timedelta(seconds=next_in) <= timedelta(0), "it has been due for so long"


def next_time(outbox: Outbox) -> float | None:
    """In how many seconds something is due; nothing is now."""
    count, next_in = outbox.due()
    assert count == 0
    return next_in


def test_the_next_scheduled_operation_says_when(outbox: Outbox) -> None:
    outbox.enqueue(wait=HOUR)
    outbox.enqueue(wait=10 * MINUTE)
    assert next_time(outbox) == pytest.approx(600, abs=5)


def test_an_empty_bucket_says_when_its_next_token_comes(outbox: Outbox) -> None:
    outbox.change("account", "default", rate_per_second=0.05)
    outbox.enqueue_each(2)
    outbox.claim()
    assert next_time(outbox) == pytest.approx(20, abs=5)


def test_a_block_says_when_it_ends(outbox: Outbox) -> None:
    outbox.enqueue()
    outbox.do(b"select outbox.block('default', null, 900, '401')")
    assert next_time(outbox) == pytest.approx(900, abs=5)


def test_a_pause_a_full_account_and_a_probe_in_flight_say_nothing_of_when(outbox: Outbox) -> None:
    outbox.enqueue_each(2)
    with outbox.conn.transaction(force_rollback=True):
        outbox.do(b"select outbox.pause('default', 'test')")
        assert outbox.due() == (0, None)
    outbox.claim(1)
    outbox.change("account", "default", max_in_flight=1)
    assert outbox.due() == (0, None)
    outbox.change("account", "default", max_in_flight=None)
    outbox.do(b"select outbox.block('default', 'sms.send', 0, '429')")
    assert outbox.due() == (0, None)


def test_an_absurdly_slow_rate_makes_nobody_else_undue(outbox: Outbox) -> None:
    outbox.change("account", "default", rate_per_second=1e-200)
    outbox.enqueue_each(2)
    outbox.claim()
    outbox.add_account("other")
    outbox.enqueue(account="other")
    assert outbox.due()[0] == 1


def test_what_waits_for_the_api_to_settle_is_not_due(outbox: Outbox) -> None:
    outbox.enqueue()
    outbox.tell(outbox.claim_one(), TIMED_OUT)
    assert next_time(outbox) == pytest.approx(30, abs=3)


def test_asking_what_is_due_waits_for_nobody(outbox: Outbox, other: Outbox) -> None:
    outbox.change("account", "default", max_in_flight=5)
    outbox.enqueue()
    with outbox.conn.transaction():
        assert len(outbox.claim()) == 1
        other.do(b"set lock_timeout = '2s'")
        assert other.due()[0] == 1
