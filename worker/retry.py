"""What follows from an outcome: ``decide(operation, outcome, now=..., jitter=...) -> Decision``.

Pure: the time and the chance are arguments. Read from top to bottom, the first line that holds counts:

    accepted                                                       succeeded
    refused                                                        failed
    the same answer again and again, no attempt left               failed
    no other try can start before the deadline or the key window   expired
    otherwise                                                      queued, with a delay

and wherever an attempt may have been executed, ``failed`` and ``expired`` read ``unresolved`` (law 6).
The key window binds only while something is in doubt; a send needs room for a whole call before it closes.

How long to wait: the longest of the backoff (doubled each time), of ``settle`` after an attempt without a
whole answer, and of what the API asked for. Chance only ever adds to it. Attempts that are given back to
the budget (not sent, throttled) are paced by the number of their lease, which is never given back.

Decisions:
    2026-11-24: whoever was throttled waits a little longer than the block, so that another operation is the
    probe: an answer cached under one key must not keep a healthy endpoint shut.
    2026-11-24: an operation that is throttled again although others passed since its last try stops nobody
    else: a cached answer, or a recipient's own limit, is its own affair. A true stop is met by operations
    that were not throttled before, and, once nobody passes, by this one as well: their answers do.
    2026-11-24: it is given up at the fortieth such answer, some ten hours on. An overloaded API also lets
    others pass, and its answers look the same: of 2,000 operations let loose on an API that takes 10 a
    second, a limit of six ended a thousand. Of 10,000 on one that takes 1 a second none met it 25 times.
    2026-11-24: a cached 500 and an outage look alike, byte for byte. If others pass, the fifth one ends it;
    if nobody passes, the tenth: at 2 s of backoff that outlasts an outage of some 17 minutes.
    2026-11-24: given-back attempts are tried until the deadline: when the backoff would overshoot it, half
    of the remaining time is waited instead. Where an attempt was spent, the backoff is kept.
    2026-11-24: a suspicious refusal (404, 307 ...) proves nothing about earlier attempts, whatever the
    endpoint says: routers answer so before they look at a key.
    2026-11-24: a last try belongs into the last minutes of the window. An attempt made there was the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from worker.operation import Operation, State, Verdict
from worker.outcome import Outcome, Scope
from worker.plain import LONGEST

SOON: Final = timedelta(seconds=1)
"""Between tries when the API has no trouble: a first request still running, a call that we cut ourselves."""
LONGEST_WAIT: Final = timedelta(hours=1)
"""For whatever an API asks: then something is tried, since some ask for years."""
SHORTEST_BLOCK: Final = timedelta(seconds=1)
"""``Retry-After: 0`` is what is left of a fraction of a second."""
GUESSED_BLOCK_CAP: Final = timedelta(minutes=1)
"""Of an endpoint whose API names no time: one operation's bad luck must not stop the others for long."""
ACCOUNT_PROBE: Final = timedelta(seconds=30)
"""First wait of a refused account: people mend credentials in minutes, and lockouts count refusals."""
BEHIND_BLOCK: Final = timedelta(seconds=2)
"""How much longer than a block its own operation waits: time enough for another one to be claimed."""

GIVEN_BACK: Final = frozenset({Verdict.NOT_SENT, Verdict.THROTTLED})
"""Verdicts that take nothing from the budget."""
SAME_CONFLICT_LIMIT: Final = 6
"""409s in a row; 1 + 2 + 4 + 8 + 16 seconds between them are as long as the default ``settle``."""
SAME_500_LIMIT: Final = 5
SAME_500_LIMIT_ALONE: Final = 10
SAME_THROTTLING_LIMIT: Final = 40

LAST_TRY_SPREAD: Final = timedelta(minutes=10)
"""An outage's operations end together; their last tries must not arrive in one second."""
LAST_TRY_MARGIN: Final = timedelta(minutes=1)
"""For the wake-up, the claim and a busy worker: a last try that comes too late is none."""

_NO_BOUND: Final = timedelta.max


@dataclass(frozen=True, slots=True)
class Block:
    """A stop for more than the one operation, until one probe may pass."""

    scope: Scope
    lasts: timedelta
    """From the moment of recording; a second to an hour."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to record of one attempt, and what becomes of its operation."""

    operation: Operation
    outcome: Outcome
    state: State
    """SUCCEEDED, FAILED, EXPIRED, UNRESOLVED; or QUEUED: another try."""
    delay: timedelta | None
    """Of QUEUED, and only of it: the wait from the moment of recording."""
    counts: bool
    """The attempt stays in the budget; not if nothing was sent, or if the API was not ready for it."""
    clears_doubt: bool
    """The refusal proves that no earlier attempt was executed either."""
    repeat_count: int
    """How many times in a row the last whole answer has come now; 1 for a new one."""
    block: Block | None
    error: str | None
    """For people, on one line of at most 500 characters: why it ended, if so, and the outcome's own error."""


def decide(
    operation: Operation,
    outcome: Outcome,
    *,
    now: datetime,
    jitter: float,
    credential_is_current: bool = True,
) -> Decision:
    """Say what becomes of *operation* after *outcome*.

    Never ends one as not executed while an attempt may have been, and never plans a send past the
    deadline or, in doubt, too late for a whole call before the key window closes (laws 3 and 6).

    Args:
        operation: as it was leased for this attempt.
        outcome: what ``classify`` says of the attempt's reply.
        now: Postgres' clock, as nearly as is known: the claim's time, and what has passed since.
        jitter: by chance, at least 0 and less than 1.
        credential_is_current: the credential sent is still the account's; one just rotated stops nobody.
    """
    judge = _Judge(operation, outcome, now, jitter, credential_is_current)
    if outcome.verdict is Verdict.ACCEPTED:
        return judge.decision(State.SUCCEEDED)
    if outcome.verdict is Verdict.REFUSED:
        return judge.refuse()
    if (futility := judge.futility()) is not None:
        return judge.end(State.FAILED, futility)
    if (delay := judge.delay()) is not None:
        return judge.decision(State.QUEUED, delay=delay)
    return judge.end(State.EXPIRED, judge.lateness())


@dataclass(frozen=True, slots=True)
class _Judge:
    """One decision in the making; every property is derived from these five."""

    operation: Operation
    outcome: Outcome
    now: datetime
    jitter: float
    credential_is_current: bool

    # What it comes to.

    def refuse(self) -> Decision:
        proof = self.operation.endpoint.refusal_is_proof and not self.outcome.suspicion
        if self.in_doubt and not proof:
            return self.end(State.FAILED, "refused, but an earlier attempt may have been executed")
        return self.decision(State.FAILED, clears_doubt=self.in_doubt)

    def end(self, honest: State, reason: str) -> Decision:
        """Stop trying; *honest* is true only if nothing can have been executed."""
        state = State.UNRESOLVED if self.in_doubt else honest
        return self.decision(state, error=f"{reason}; {self.outcome.error}"[:LONGEST])

    def decision(
        self,
        state: State,
        *,
        delay: timedelta | None = None,
        clears_doubt: bool = False,
        error: str | None = None,
    ) -> Decision:
        return Decision(
            operation=self.operation,
            outcome=self.outcome,
            state=state,
            delay=delay,
            counts=self.counts,
            clears_doubt=clears_doubt,
            repeat_count=self.repeats,
            block=self.block,
            error=error or self.outcome.error,
        )

    # What is known.

    @property
    def in_doubt(self) -> bool:
        """This attempt or an earlier one may have been executed."""
        return self.outcome.doubt or self.operation.doubt_since is not None

    @property
    def counts(self) -> bool:
        return self.outcome.verdict not in GIVEN_BACK

    @property
    def spent(self) -> int:
        """Attempts gone from the budget."""
        return self.operation.attempt_count if self.counts else self.operation.attempt_count - 1

    @property
    def repeats(self) -> int:
        """A try without a whole answer neither adds to a run of answers nor ends it."""
        if self.outcome.answer_sha256 is None:
            return self.operation.repeat_count
        is_same = self.outcome.answer_sha256 == self.operation.last_answer_sha256
        return self.operation.repeat_count + 1 if is_same else 1

    @property
    def is_outdated(self) -> bool:
        """The account was refused with a credential that it no longer uses."""
        return self.outcome.block is Scope.ACCOUNT and not self.credential_is_current

    # Whether to go on.

    def futility(self) -> str | None:
        """Why no other try could bring anything new, if so."""
        limit = self._limit_of_repeats()
        if limit is not None and self.repeats >= limit:
            return f"the same answer came {self.repeats} times in a row"
        if self.spent >= self.operation.endpoint.max_attempts:
            return f"all {self.operation.endpoint.max_attempts} attempts are used up"
        return None

    def _limit_of_repeats(self) -> int | None:
        if self.outcome.status == 409:
            return SAME_CONFLICT_LIMIT
        if self.outcome.status == 500:
            return SAME_500_LIMIT if self.operation.other_passed else SAME_500_LIMIT_ALONE
        if self.outcome.verdict is Verdict.THROTTLED and self.operation.other_passed:
            return SAME_THROTTLING_LIMIT
        return None

    # When.

    def delay(self) -> timedelta | None:
        """The wait before the next send; None if none can start in time."""
        if max(self.least, self.asked or self.least) >= self.room:
            return None
        if self.only_last_try_left:
            return self._last_try()
        if self.wanted < self.room:
            return self.wanted
        if not self.counts:
            return self._half_of_the_rest()
        return self._last_try() if self.last_try_ahead else None

    def lateness(self) -> str:
        bound = "deadline" if self.room == self.room_to_deadline else "end of the key window"
        return f"no other try can start before the {bound}"

    @property
    def room(self) -> timedelta:
        """The next send must start sooner than this from now."""
        return min(self.room_to_deadline, self.room_to_window)

    @property
    def room_to_deadline(self) -> timedelta:
        deadline = self.operation.deadline_at
        return _NO_BOUND if deadline is None else deadline - self.now

    @property
    def room_to_window(self) -> timedelta:
        if not self.in_doubt:
            return _NO_BOUND
        return self.operation.key_window_closes_at - self.now - self.operation.endpoint.call_deadline

    @property
    def asked(self) -> timedelta | None:
        """What the API asked for, in full."""
        asked = self.outcome.retry_after
        return max(asked - self.now, timedelta(0)) if isinstance(asked, datetime) else asked

    @property
    def least(self) -> timedelta:
        """No send sooner than this, whatever the chance."""
        settle = timedelta(0) if self.outcome.settled else self.operation.endpoint.settle
        asked = min(self.asked or timedelta(0), LONGEST_WAIT)
        return max(settle, asked, timedelta(0) if self.block is None else self.block.lasts)

    @property
    def wanted(self) -> timedelta:
        behind = timedelta(0) if self.block is None else self.block.lasts + BEHIND_BLOCK * (1 + self.jitter)
        return max(self.pace * (1 + self.jitter / 2), self.least * (1 + self.jitter / 10), behind)

    @property
    def pace(self) -> timedelta:
        """The wait that we choose ourselves, before chance."""
        endpoint = self.operation.endpoint
        if self.is_outdated:
            return SOON
        if self.outcome.soon:
            return _doubled(SOON, self.repeats if self.outcome.status else 1, endpoint.backoff_cap)
        turn = self.operation.attempt_count if self.counts else self.operation.lease.number
        return _doubled(endpoint.backoff, turn, endpoint.backoff_cap)

    def _half_of_the_rest(self) -> timedelta | None:
        wait = max(self.least, SOON, self.room / 2 * (1 + self.jitter / 2))
        return wait if wait < self.room else None

    # The last try.

    @property
    def saves_last_try(self) -> bool:
        return self.operation.endpoint.last_try and self.in_doubt

    @property
    def only_last_try_left(self) -> bool:
        return self.saves_last_try and self.spent >= self.operation.endpoint.max_attempts - 1

    @property
    def last_try_ahead(self) -> bool:
        return self.saves_last_try and self.room > LAST_TRY_SPREAD + LAST_TRY_MARGIN

    def _last_try(self) -> timedelta | None:
        latest = self.room - LAST_TRY_MARGIN
        earliest = max(self.least, latest - LAST_TRY_SPREAD)
        return earliest + (latest - earliest) * self.jitter if earliest <= latest else None

    # Whom else it stops.

    @property
    def block(self) -> Block | None:
        if self.outcome.block is None or self.is_outdated or self.is_its_own_affair:
            return None
        asked = self._guess(self.outcome.block) if self.asked is None else self.asked
        lasts = max(asked, SHORTEST_BLOCK) * (1 + self.jitter / 10)
        return Block(self.outcome.block, min(lasts, LONGEST_WAIT))

    @property
    def is_its_own_affair(self) -> bool:
        """Met again although others passed since the last try: cached under the key, or the recipient's."""
        return self.operation.other_passed and self.repeats > 1

    def _guess(self, scope: Scope) -> timedelta:
        if scope is Scope.ACCOUNT:
            return _doubled(ACCOUNT_PROBE, self.operation.lease.number, LONGEST_WAIT)
        return _doubled(self.operation.endpoint.backoff, self.operation.lease.number, GUESSED_BLOCK_CAP)


def _doubled(first: timedelta, turn: int, cap: timedelta) -> timedelta:
    """*first* on the first turn, twice as much on each further one, *cap* at most."""
    return min(first * (1 << min(max(turn, 1) - 1, 20)), cap)
