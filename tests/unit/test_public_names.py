"""What applications import: nothing is missing from it, and the tree of errors is as it is drawn."""

from __future__ import annotations

import inspect
import re

import worker
from worker import errors

INSIDE = {"CallCut", "ClaimsShut", "InvalidCertificate", "InvalidExport", "SendWindowPassed", "StoreRefused"}
"""What only a worker or an administrator meets."""


def error_classes() -> dict[str, type[Exception]]:
    return {
        name: found
        for name, found in vars(errors).items()
        if inspect.isclass(found) and issubclass(found, errors.RingonceError)
    }


def test_every_public_name_is_there() -> None:
    assert [name for name in worker.__all__ if not hasattr(worker, name)] == []


def test_every_error_that_an_application_can_meet_is_public() -> None:
    assert set(error_classes()) - set(worker.__all__) <= INSIDE


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn = {}
    above: list[str] = []
    for branch, name in re.findall(r"^    ([│├└─ ]*)([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE):
        above[len(branch) // 3 :] = [name]
        drawn[name] = above[-2] if len(above) > 1 else "Exception"
    assert drawn == {name: each.__base__.__name__ for name, each in error_classes().items() if each.__base__}


def test_asynchronous_functions_take_what_the_others_take() -> None:
    for plain, asynchronous in (
        (worker.enqueue, worker.aenqueue),
        (worker.enqueue_many, worker.aenqueue_many),
        (worker.result, worker.aresult),
        (worker.wait, worker.await_result),
    ):
        taken = [list(inspect.signature(each).parameters.values())[1:] for each in (plain, asynchronous)]
        assert taken[0] == taken[1]


def test_a_new_operation_has_the_fields_that_enqueue_takes() -> None:
    taken = inspect.signature(worker.enqueue).parameters
    fields = inspect.signature(worker.NewOperation).parameters
    assert {name: each.default for name, each in taken.items() if name != "conn"} == {
        name: each.default for name, each in fields.items()
    }
