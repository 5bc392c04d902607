"""The rules of an idempotency key, without a network: the spec's scenarios, and what it leaves open."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from worker.operation import Answer
from worker.sandbox.idempotency import (
    DAY_SECONDS,
    Busy,
    ClockFrom,
    Concurrent,
    Execute,
    Held,
    KeyBook,
    Recorded,
    Replay,
    Rules,
)


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Keys(KeyBook):
    """A book with its clock, and short ways through it."""

    def __init__(self, **rules: object) -> None:
        self.hand = Hand()
        super().__init__(Rules(**rules), self.hand)  # type: ignore[arg-type]

    def start(self, key: str = "k", app_id: str = "app") -> Held:
        claim = self.claim(app_id, key)
        assert isinstance(claim, Execute)
        return claim.held

    def execute(self, key: str = "k", app_id: str = "app", *, body: bytes = b"first") -> None:
        self.settle(self.start(key, app_id), recorded(body), succeeded=True)

    def replayed(self, key: str = "k", app_id: str = "app") -> bytes | None:
        claim = self.claim(app_id, key)
        return claim.recorded.answer.body if isinstance(claim, Replay) else None


def recorded(body: bytes, status: int = 200) -> Recorded:
    return Recorded(Answer(status, (), body), "voice.call", "sha")


def test_a_new_key_is_executed() -> None:
    assert isinstance(Keys().claim("app", "k"), Execute)


def test_a_key_that_was_answered_is_replayed_with_the_same_bytes() -> None:
    keys = Keys()
    keys.execute(body=b'{"result": 0}')
    assert keys.replayed() == b'{"result": 0}'
    assert keys.replayed() == b'{"result": 0}'


def test_keys_do_not_touch_each_other() -> None:
    keys = Keys()
    keys.execute("one")
    assert isinstance(keys.claim("app", "two"), Execute)


def test_a_key_belongs_to_one_app_id() -> None:
    keys = Keys()
    keys.execute(app_id="mine", body=b"mine")
    keys.execute(app_id="yours", body=b"yours")
    assert (keys.replayed(app_id="mine"), keys.replayed(app_id="yours")) == (b"mine", b"yours")


@pytest.mark.parametrize(
    ("age", "met"),
    [
        (0.0, Replay),
        (DAY_SECONDS - 0.001, Replay),
        (DAY_SECONDS, Execute),
        (2 * DAY_SECONDS, Execute),
    ],
)
def test_a_key_expires_at_exactly_24_hours(age: float, met: type[Replay | Execute]) -> None:
    keys = Keys()
    keys.execute()
    keys.hand.now += age
    assert isinstance(keys.claim("app", "k"), met)


def test_an_expired_key_holds_the_fresh_answer_for_another_24_hours() -> None:
    keys = Keys()
    keys.execute(body=b"old")
    keys.hand.now += DAY_SECONDS
    keys.execute(body=b"fresh")
    keys.hand.now += DAY_SECONDS - 1
    assert keys.replayed() == b"fresh"


def test_a_replay_does_not_make_a_key_live_longer() -> None:
    keys = Keys()
    keys.execute()
    keys.hand.now += DAY_SECONDS - 1
    assert keys.replayed() == b"first"
    keys.hand.now += 1
    assert keys.replayed() is None


def test_the_clock_from_arrival_ages_a_key_while_its_first_request_runs() -> None:
    keys = Keys(key_ttl_seconds=10.0, clock_from=ClockFrom.ARRIVAL)
    held = keys.start()
    keys.hand.now += 9
    keys.settle(held, recorded(b"first"), succeeded=True)
    keys.hand.now += 1
    assert isinstance(keys.claim("app", "k"), Execute)


def test_the_clock_from_completion_starts_with_the_answer() -> None:
    keys = Keys(key_ttl_seconds=10.0, clock_from=ClockFrom.COMPLETION)
    held = keys.start()
    keys.hand.now += 100
    assert isinstance(keys.claim("app", "k"), Busy)
    keys.settle(held, recorded(b"first"), succeeded=True)
    keys.hand.now += 9.999
    assert keys.replayed() == b"first"
    keys.hand.now += 0.001
    assert isinstance(keys.claim("app", "k"), Execute)


def test_an_error_leaves_its_key_free_unless_errors_are_cached() -> None:
    keys = Keys(errors_cached=False)
    keys.settle(keys.start(), recorded(b"error", 500), succeeded=False)
    assert isinstance(keys.claim("app", "k"), Execute)


def test_a_cached_error_is_replayed() -> None:
    keys = Keys(errors_cached=True)
    keys.settle(keys.start(), recorded(b"error", 500), succeeded=False)
    assert keys.replayed() == b"error"


@pytest.mark.parametrize("concurrent", [Concurrent.WAIT, Concurrent.CONFLICT])
def test_a_second_request_finds_the_first_one_busy(concurrent: Concurrent) -> None:
    keys = Keys(concurrent=concurrent)
    keys.start()
    assert isinstance(keys.claim("app", "k"), Busy)


def test_whoever_waits_is_told_when_the_first_request_ends() -> None:
    keys, told = Keys(), []
    held = keys.start()
    busy = keys.claim("app", "k")
    assert isinstance(busy, Busy)
    busy.watch(lambda: told.append(keys.replayed()))
    assert told == []
    keys.settle(held, recorded(b"first"), succeeded=True)
    assert told == [b"first"]


def test_whoever_waits_may_execute_when_the_first_request_was_abandoned() -> None:
    keys, claims = Keys(), []
    held = keys.start()
    busy = keys.claim("app", "k")
    assert isinstance(busy, Busy)
    busy.watch(lambda: claims.append(keys.claim("app", "k")))
    keys.abandon(held)
    assert [type(claim) for claim in claims] == [Execute]


def test_where_concurrent_requests_execute_the_first_answer_stays() -> None:
    keys = Keys(concurrent=Concurrent.EXECUTE)
    early, late = keys.start(), keys.start()
    keys.settle(late, recorded(b"late came first"), succeeded=True)
    keys.settle(early, recorded(b"early came second"), succeeded=True)
    assert keys.replayed() == b"late came first"


def test_where_concurrent_requests_execute_one_error_does_not_free_the_key_of_the_other() -> None:
    keys = Keys(concurrent=Concurrent.EXECUTE)
    failing, working = keys.start(), keys.start()
    keys.settle(failing, recorded(b"error", 500), succeeded=False)
    keys.settle(working, recorded(b"done"), succeeded=True)
    assert keys.replayed() == b"done"


def test_a_request_that_outlived_its_key_does_not_disturb_the_next_one() -> None:
    keys = Keys()
    slow = keys.start()
    keys.hand.now += DAY_SECONDS
    keys.execute(body=b"next")
    keys.settle(slow, recorded(b"slow"), succeeded=True)
    assert keys.replayed() == b"next"


def test_an_error_that_outlived_its_key_does_not_free_the_next_one() -> None:
    keys = Keys()
    slow = keys.start()
    keys.hand.now += DAY_SECONDS
    keys.execute(body=b"next")
    keys.settle(slow, recorded(b"error", 500), succeeded=False)
    assert keys.replayed() == b"next"


def test_a_changed_lifetime_holds_for_keys_that_live_already() -> None:
    keys = Keys()
    keys.execute()
    keys.hand.now += 60
    keys.rules = Rules(key_ttl_seconds=60)
    assert isinstance(keys.claim("app", "k"), Execute)


def test_a_cleared_book_is_empty_and_running_requests_leave_nothing_behind() -> None:
    keys = Keys()
    answered, abandoned = keys.start("k"), keys.start("other")
    keys.clear()
    keys.settle(answered, recorded(b"late"), succeeded=True)
    keys.abandon(abandoned)
    assert len(keys) == 0
    assert isinstance(keys.claim("app", "k"), Execute)


def test_expired_keys_make_room() -> None:
    keys = Keys(key_ttl_seconds=100.0)
    for number in range(1000):
        keys.hand.now += 1
        keys.execute(f"key {number}")
    assert len(keys) <= 101


@hypothesis.given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(min_value=0, max_value=DAY_SECONDS * 1.5)), max_size=40
    )
)
def test_no_key_is_executed_again_before_it_has_expired(requests: list[tuple[str, float]]) -> None:
    keys = Keys()
    executed_at: dict[str, float] = {}
    for key, wait in requests:
        keys.hand.now += wait
        claim = keys.claim("app", key)
        last = executed_at.get(key)
        if last is not None and keys.hand.now - last < DAY_SECONDS:
            assert isinstance(claim, Replay)
        else:
            assert isinstance(claim, Execute)
            keys.settle(claim.held, recorded(b"x"), succeeded=True)
            executed_at[key] = keys.hand.now
