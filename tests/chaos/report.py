"""What a run came to, as a table; and, if something is wrong, all that helps to find out why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tests.chaos.evidence import Evidence, verdicts
from tests.chaos.run import Result

MOST_HISTORIES = 12


def show(result: Result) -> int:
    """Print it; 0 if every rule held, else 1."""
    if result.breaches:
        _say(str(result.schedule))
    for title, numbers in _tables(result).items():
        _say(
            f"{title}: " + (", ".join(f"{name} {count}" for name, count in sorted(numbers.items())) or "none")
        )
    if result.breaches:
        _show_breaches(result)
        return 1
    _say(f"ok: {_summary(result)}")
    return 0


def _tables(result: Result) -> Mapping[str, Mapping[str, int]]:
    evidence = result.evidence
    return {
        "operations": Counter(row.state for row in evidence.operations),
        "resolved by a person": Counter(row.state for row in evidence.operations if row.resolved),
        "attempts": verdicts(evidence),
        "requests at the API": Counter({k: v for k, v in evidence.counts.by_outcome.items() if v}),
        "faults injected": Counter({k: v for k, v in evidence.counts.by_fault.items() if k != "none"}),
        "events": result.events,
        "refused to administrators": result.refused,
    }


def _summary(result: Result) -> str:
    evidence = result.evidence
    twice = sum(len(each) > 1 for each in evidence.executions.values())
    return (
        f"seed {result.schedule.seed}, {len(evidence.operations)} operations,"
        f" {len(evidence.executions)} executed, {twice} twice, {_lost(evidence)} lost,"
        f" settled {result.settled_after:.1f} s after the last failure"
    )


def _lost(evidence: Evidence) -> int:
    """What the outbox does not have, what never came to rest in it, and what it takes for done and is not."""
    known = {row.idempotency_key for row in evidence.operations}
    return len(evidence.memory.committed.keys() - known) + sum(
        row.state in ("queued", "in_flight")
        or (row.state == "succeeded" and row.key not in evidence.executions)
        for row in evidence.operations
    )


def _show_breaches(result: Result) -> None:
    for rule, count in Counter(breach.rule for breach in result.breaches).items():
        _say(f"\nBROKEN, {count} times: {rule}")
        for breach in [each for each in result.breaches if each.rule == rule][:MOST_HISTORIES]:
            _say(f"- {breach.text}")
            if breach.row is not None:
                _say("\n".join(f"    {line}" for line in result.evidence.history(breach.row)))
    _say(f"WRONG: {_summary(result)}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  this is a program
