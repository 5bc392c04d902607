"""What chaos says in the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.chaos.evidence import Evidence
from tests.chaos.producers import Memory
from tests.chaos.report import show
from tests.chaos.run import Result
from tests.chaos.schedule import plan
from tests.chaos.verdict import judge
from tests.unit.test_chaos_verdict import ONE, run_of


def result(evidence: Evidence) -> Result:
    return Result(plan(7, 60), evidence, judge(evidence), {}, {}, settled_after=1.25)


def test_a_run_that_held_ends_with_ok(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(result(run_of(ONE))) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "ok: seed 7, 4 operations, 4 executed, 0 twice, 0 lost, settled 1.2 s after the last failure"
    )


@pytest.mark.parametrize(
    ("evidence", "count"),
    [
        (run_of(replace(ONE, executions=[])), "0 twice, 1 lost"),
        (run_of(replace(ONE, executions=[]).but(state="queued")), "0 twice, 1 lost"),
        (run_of(ONE.but(state="in_flight")), "0 twice, 1 lost"),
        (run_of(memory=Memory(run_of(ONE).memory.committed)), "0 twice, 1 lost"),
        (run_of(replace(ONE, executions=[*ONE.executions, *ONE.executions])), "1 twice, 0 lost"),
    ],
)
def test_a_run_that_did_not_hold_ends_with_what_went_wrong(
    evidence: Evidence, count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(result(evidence)) == 1
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith("WRONG: seed 7, ")
    assert count in last_line
