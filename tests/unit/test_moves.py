"""What moved operations on without an answer is said in lines that can be read."""

from __future__ import annotations

from tests.listening import Said
from worker.observe import Event
from worker.operation import State
from worker.store.moves import IDS, tell_moved


def row(id_: int, state: State, traceparent: str | None = None) -> dict[str, object]:
    return {"id": id_, "number": 2, "endpoint": "sms.send", "state": state.value, "traceparent": traceparent}


def test_of_nothing_nothing_is_said(said: Said) -> None:
    tell_moved(Event.SETTLED, [])
    assert said.of(Event.SETTLED) == []


def test_a_line_names_no_more_than_fit_and_every_operation_is_named(said: Said) -> None:
    tell_moved(Event.SETTLED, [row(id_, State.EXPIRED) for id_ in range(2 * IDS + 1)])
    told = said.of(Event.SETTLED)
    assert [fields["count"] for fields in told] == [IDS, IDS, 1]
    assert [id_ for fields in told for id_ in fields["operations"]] == list(range(2 * IDS + 1))
    assert said.of(Event.UNRESOLVED) == []


def test_each_that_a_person_must_settle_has_a_line_of_its_own(said: Said) -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    tell_moved(
        Event.RESCUED,
        [row(1, State.UNRESOLVED, parent), row(2, State.QUEUED), row(3, State.UNRESOLVED)],
    )
    assert said.of(Event.RESCUED) == [{"count": 3, "operations": [1, 2, 3]}]
    line = {"number": 2, "endpoint": "sms.send", "state": "unresolved", "cause": "rescued"}
    assert said.of(Event.UNRESOLVED) == [
        {**line, "operation": 1, "trace_id": "a" * 32},
        {**line, "operation": 3},
    ]
