"""FastAPI's and Django's example, from the request of a customer to the ledger of the API."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest

from tests.acceptance.examples.running import Example, own_tests
from tests.documents import snippet
from tests.postgres import Database
from tests.waiting import until

pytestmark = pytest.mark.timeout(300)  # the first to use an example waits until five programs have begun
on_the_web = pytest.mark.parametrize("example", ["fastapi_app", "django_app"], indirect=True, scope="module")
on_django = pytest.mark.parametrize("example", ["django_app"], indirect=True, scope="module")

COUNTS = "select (select count(*) from orders), (select count(*) from outbox.operation)"
DJANGO_COUNTS = COUNTS.replace("from orders", "from box_office_order")


def post(example: Example, seat: str, key: str, phone: str = "+919876543210") -> httpx.Response:
    return httpx.post(
        f"{example.app}/orders",
        json={"seat": seat, "phone": phone},
        headers={"Idempotency-Key": key},
        trust_env=False,
        timeout=30,
    )


def confirmation(example: Example, order: int) -> str:
    told: str = httpx.get(f"{example.app}/orders/{order}", trust_env=False, timeout=30).json()["confirmation"]
    return told


def counts(example: Example) -> tuple[int, int]:
    statement = DJANGO_COUNTS if example.folder.name == "django_app" else COUNTS
    [(orders, operations)] = example.rows(statement)
    return orders, operations


@on_the_web
def test_an_order_is_told_of_once_and_its_outcome_is_shown(example: Example) -> None:
    key = str(uuid4())
    placed = post(example, "A1", key)
    assert placed.status_code == 201
    assert placed.json()["message"] == "Seat A1 is yours. An SMS will confirm it."
    example.delivers(key)
    until(lambda: confirmation(example, placed.json()["order"]) == "sent")
    [sent] = [each for each in example.executions() if each["key"] == key]
    assert sent["endpoint"] == "sms.send"


@on_the_web
def test_a_seat_that_is_taken_leaves_neither_an_order_nor_an_operation(example: Example) -> None:
    assert post(example, "B1", str(uuid4())).status_code == 201
    before = counts(example)
    key = str(uuid4())
    refused = post(example, "B1", key)
    assert (refused.status_code, counts(example)) == (409, before)
    assert example.rows(f"select from outbox.operation where idempotency_key = '{key}'") == []


@on_the_web
def test_the_same_request_at_once_and_again_is_one_order_and_one_sms(example: Example) -> None:
    key = str(uuid4())
    before = counts(example)
    with ThreadPoolExecutor(6) as customers:
        answers = list(customers.map(lambda _: post(example, "C1", key), range(6)))
    assert [each.status_code for each in answers] == [201] * 6
    example.delivers(key)
    answers.append(post(example, "C1", key))
    assert answers[-1].status_code == 201
    assert len({each.json()["order"] for each in answers}) == 1
    assert counts(example) == (before[0] + 1, before[1] + 1)
    assert example.executed(key) == 1


@on_the_web
def test_another_order_under_a_key_that_was_used_is_refused(example: Example) -> None:
    key = str(uuid4())
    assert post(example, "D1", key).status_code == 201
    before = counts(example)
    assert (post(example, "D2", key).status_code, counts(example)) == (422, before)


@on_the_web
def test_what_cannot_be_an_order_is_refused(example: Example) -> None:
    before = counts(example)
    answers = [post(example, "E1", "msg-1"), post(example, "E1", str(uuid4()), phone="call me")]
    assert ([each.status_code for each in answers], counts(example)) == ([422, 422], before)


@on_the_web
def test_there_is_no_outcome_of_an_order_that_was_never_placed(example: Example) -> None:
    assert httpx.get(f"{example.app}/orders/999999", trust_env=False, timeout=30).status_code == 404


@on_the_web
def test_the_requests_of_its_readme_are_answered_as_it_says(example: Example) -> None:
    said = example.run(snippet(example.readme, "ask"))
    assert "Seat A7 is yours. An SMS will confirm it." in said
    assert '"rows"' in said
    example.delivers("6fa459ea-ee8a-4ca4-894e-db77e160355e")


@on_django
def test_the_asynchronous_view_of_django_enqueues_once(example: Example) -> None:
    order = post(example, "F1", str(uuid4())).json()["order"]
    key = str(uuid4())
    for _ in range(2):
        asked = httpx.post(
            f"{example.app}/orders/{order}/call",
            headers={"Idempotency-Key": key},
            trust_env=False,
            timeout=30,
        )
        assert asked.status_code == 202, json.dumps(asked.json())
    example.delivers(key)


def test_the_tests_of_fastapis_own_pass(database: Database) -> None:
    assert "3 passed" in (told := own_tests("fastapi_app", database)), told
