"""``endpoint``: another API is a row, and a row that cannot be is refused with what is wrong about it."""

from __future__ import annotations

import psycopg
import pytest

from tests.documents import COOKBOOK, snippet
from tests.integration.cli.examples import examples
from tests.integration.cli.running import Ringonce, printed, refusal, said
from worker.cli.parameters import duration

LETTERS = [
    "--path", "/v1/letters", "--success-field", "none", "--id-field", "id", "--key-ttl", "24h",
    "--key-safety", "1h", "--settle", "1min", "--call-deadline", "20s", "--max-attempts", "8",
    "--backoff", "1s", "--backoff-cap", "1h30min", "--default-deadline", "2d", "--last-try",
    "--refusal-is-proof", "--caches-errors", "--account-code", "no_such_key", "--account-code", "gone",
]  # fmt: skip


def test_a_custom_endpoint_is_a_row(ringonce: Ringonce) -> None:
    assert said(ringonce("endpoint", "set", "letter.send", *LETTERS)) == "endpoint letter.send added\n"
    found = printed(ringonce("endpoint", "show", "letter.send", "--json"))
    assert found == {
        "name": "letter.send", "path": "/v1/letters", "success_field": None, "success_value": None,
        "id_field": "id", "key_header": "Idempotency-Key", "key_ttl": 86_400, "key_safety": 3_600,
        "settle": 60, "call_deadline": 20, "max_attempts": 8, "backoff": 1, "backoff_cap": 5_400,
        "default_deadline": 172_800, "last_try": True, "refusal_is_proof": True, "caches_errors": True,
        "account_codes": ["no_such_key", "gone"], "revision": 2,
    }  # fmt: skip
    shown = said(ringonce("endpoint", "show", "letter.send"))
    assert "  account codes     no_such_key, gone\n" in shown
    assert "  last try          yes\n" in shown
    assert "success" not in shown


def test_the_other_api_of_help_is_the_cookbooks(ringonce: Ringonce, conn: psycopg.Connection) -> None:
    [example] = [words for words in examples(("endpoint", "set")) if "stripe.meter_event" in words]
    said(ringonce(*example))
    typed = printed(ringonce("endpoint", "show", "stripe.meter_event", "--json"))
    conn.execute("delete from outbox.endpoint where name = 'stripe.meter_event'")
    conn.execute(snippet(COOKBOOK, "stripe").partition("insert into outbox.account")[0].encode())
    written = printed(ringonce("endpoint", "show", "stripe.meter_event", "--json"))
    assert typed == written | {"revision": typed["revision"]}


def test_what_is_not_given_stays(ringonce: Ringonce) -> None:
    before = printed(ringonce("endpoint", "show", "sms.send", "--json"))
    told = ringonce("endpoint", "set", "sms.send", "--success-value", '"none"', "--no-last-try")
    assert said(told) == "endpoint sms.send changed\n"
    after = printed(ringonce("endpoint", "show", "sms.send", "--json"))
    changed = {"success_value": "none", "last_try": False, "revision": before["revision"] + 1}
    assert after == before | changed
    assert '  success value     "none"\n' in said(ringonce("endpoint", "show", "sms.send"))


def test_none_takes_a_value_away(ringonce: Ringonce) -> None:
    said(ringonce("endpoint", "set", "sms.send", "--default-deadline", "1h"))
    options = ["--default-deadline", "none", "--id-field", "none", "--account-code", "none"]
    found = printed(ringonce("endpoint", "set", "sms.send", *options, "--json"))
    assert (found["default_deadline"], found["id_field"], found["account_codes"]) == (None, None, [])
    assert (found["added"], found["changed"]) == (False, True)


@pytest.mark.parametrize("options", [[], ["--path", "/sms/v1/messages/"], ["--settle", "30s"]])
def test_an_endpoint_that_is_as_it_is_wanted_is_said_to_be(ringonce: Ringonce, options: list[str]) -> None:
    told = said(ringonce("endpoint", "set", "sms.send", *options))
    assert told == "endpoint sms.send is that already: nothing was changed\n"


def test_the_list_of_endpoints_tells_how_long_keys_protect(ringonce: Ringonce) -> None:
    header, *rows = said(ringonce("endpoint", "list")).splitlines()
    assert header.split()[:2] == ["endpoint", "path"]
    assert len(rows) == 7
    assert "1 d 0 h" in rows[0]
    assert [each["name"] for each in printed(ringonce("endpoint", "list", "--json"))][:2] == [
        "message.send",
        "rcs.send",
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["show", "fax.send"], "there is no endpoint 'fax.send'"),
        (["set", "fax.send"], "there is no endpoint 'fax.send' yet: give its --path"),
        (["set", "fax.send", "--key-ttl", "1h"], "there is no endpoint 'fax.send' yet: give its --path"),
        (["set", "fax.send", "--path", "fax"], "a path begins with /"),
        (["set", "Fax", "--path", "/fax"], "an endpoint's name is up to 63 small letters"),
        (["set", "sms.send", "--key-header", "Authorization"], "that header means something else"),
        (["set", "sms.send", "--key-header", "a b"], "a key header is letters, digits and -"),
        (["set", "sms.send", "--settle", "20min"], "key_safety must be no shorter than settle"),
        (["set", "sms.send", "--key-ttl", "10min"], "key_ttl less key_safety must be longer than"),
        (["set", "sms.send", "--key-ttl", "400d"], "key_ttl up to 8760 h"),
        (["set", "sms.send", "--backoff", "0"], "durations are more than 0"),
        (["set", "sms.send", "--success-value", "[1]"], "a success value is a number, a string"),
        (["set", "sms.send", "--success-value", "ok"], "'ok' is not JSON"),
        (["set", "sms.send", "--max-attempts", 0], "0 is not in the range"),
        (["set", "sms.send", "--settle", "soon"], "'soon' is not a duration such as 30s"),
        (["set", "sms.send", "--settle", "none"], "'none' is not a duration such as 30s"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(
    ringonce: Ringonce, arguments: list[object], line: str
) -> None:
    before = printed(ringonce("endpoint", "list", "--json"))
    assert line in refusal(ringonce("endpoint", *arguments))
    assert printed(ringonce("endpoint", "list", "--json")) == before


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0.5s", 0.5), ("10min", 600), ("1h30min", 5_400), ("2d", 172_800), ("1 h 5 s", 3_605)],
)
def test_a_duration_is_exact_seconds(text: str, seconds: float) -> None:
    assert duration(text).total_seconds() == seconds
