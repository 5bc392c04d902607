"""Requests that are built and checked before they are frozen."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import pytest

from worker import InvalidKey, InvalidPayload, NewOperation, Request, message, rcs, sms, voice, whatsapp
from worker.producer import _one

PHONE: Final = "+919876543210"
LEAST: Final[dict[str, tuple[Callable[..., Request], dict[str, Any], str]]] = {
    "voice.call": (voice.call, {"from_": "+6512345678", "to": PHONE}, "owner_ref"),
    "voice.broadcast": (voice.broadcast, {"from_": "+6512345678", "recipients": [PHONE]}, "owner_ref"),
    "sms.send": (sms.send, {"from_": "SHOP", "to": [PHONE], "data": "On its way"}, "reference"),
    "whatsapp.send": (whatsapp.send, {"from_": "SHOP", "to": PHONE, "template": "shipped"}, "reference"),
    "rcs.send": (rcs.send, {"phone": PHONE, "agent": "shop"}, "reference"),
    "rcs.template": (rcs.template, {"phone": PHONE, "agent": "shop", "template": "shipped"}, "reference"),
    "message.send": (message.send, {"to": PHONE, "channels": {"sms": {"data": "Hello"}}}, "custom_data"),
}
"""Each endpoint, with no more than it needs, and the field that comes back in webhooks."""
each_endpoint = pytest.mark.parametrize("endpoint", LEAST)


def written(operation: NewOperation) -> tuple[dict[str, Any], str | None]:
    """The payload that would be frozen, and the key that goes with it."""
    texts = _one(operation)
    return json.loads(texts["payload"] or ""), texts["idempotency_key"]


@each_endpoint
def test_a_request_goes_to_its_endpoint(endpoint: str) -> None:
    send, arguments, correlation = LEAST[endpoint]
    request = send(**arguments)
    assert (request.endpoint, request.correlation) == (endpoint, correlation)
    assert _one(NewOperation(request))["endpoint"] == endpoint


@each_endpoint
def test_a_request_is_known_by_the_key_of_its_operation(endpoint: str) -> None:
    send, arguments, correlation = LEAST[endpoint]
    request = send(**arguments)
    payload, key = written(NewOperation(request))
    assert key is not None
    assert (payload[correlation], UUID(key).version) == (key, 4)
    assert written(NewOperation(request))[1] != key
    given = uuid4()
    payload, key = written(NewOperation(request, idempotency_key=given))
    assert payload[correlation] == key == str(given)
    assert _one(NewOperation(request, idempotency_key=given)) == _one(
        NewOperation(request, idempotency_key=given)
    )


@each_endpoint
def test_a_correlation_that_was_given_stays(endpoint: str) -> None:
    send, arguments, correlation = LEAST[endpoint]
    for more in (
        {correlation: "order-4711"},
        {"more": {**arguments.get("more", {}), correlation: "order-4711"}},
    ):
        request = send(**arguments, **more)
        payload, key = written(NewOperation(request))
        assert (payload[correlation], key) == ("order-4711", None)
        payload, key = written(NewOperation(request, idempotency_key="f3b1c2"))
        assert (payload[correlation], key) == ("order-4711", "f3b1c2")


@each_endpoint
def test_further_fields_are_sent_as_they_are(endpoint: str) -> None:
    send, arguments, _ = LEAST[endpoint]
    payload, _ = written(NewOperation(send(**arguments, more={"new_field": {"a": [1, None]}})))
    assert payload["new_field"] == {"a": [1, None]}
    with pytest.raises(InvalidPayload, match="more is a mapping of further fields"):
        send(**arguments, more=["new_field"])


@each_endpoint
def test_what_was_given_already_is_not_given_again(endpoint: str) -> None:
    send, arguments, _ = LEAST[endpoint]
    name = next(each for each in ("to", "recipients", "phone") if each in arguments)
    with pytest.raises(InvalidPayload, match=f"more holds {name}, which was given already"):
        send(**arguments, more={name: PHONE})


@each_endpoint
def test_what_is_left_out_is_not_sent(endpoint: str) -> None:
    send, arguments, correlation = LEAST[endpoint]
    payload, _ = written(NewOperation(send(**arguments)))
    optional = {
        name.rstrip("_")
        for name, each in inspect.signature(send).parameters.items()
        if each.default is None and name not in arguments
    }
    assert payload.keys() & optional - {"type"} == {correlation}


@each_endpoint
def test_every_argument_is_a_field(endpoint: str) -> None:
    send, arguments, _ = LEAST[endpoint]
    taken = inspect.signature(send).parameters.keys() - arguments.keys() - {"more", "webhook_url", "template"}
    values: dict[str, Any] = {"action_on_connect": {"play": "hello"}, "retry": {"interval": 60}}
    values |= {"preference": "order", "auto_record": False, "validity": 60, "ttl": 0}
    given = {name: values.get(name, "a text") for name in taken}
    payload, _ = written(NewOperation(send(**arguments, **given)))
    assert {name.rstrip("_"): value for name, value in given.items()}.items() <= payload.items()


@pytest.mark.parametrize("value", [0, 86_400, "60s"])
def test_a_lifetime_is_a_number_or_a_text_and_sent_as_it_is(value: int | str) -> None:
    assert sms.send(from_="SHOP", to=PHONE, data="Hello", validity=value).payload["validity"] == value
    assert rcs.send(phone=PHONE, agent="shop", ttl=value).payload["ttl"] == value


def test_a_call_is_what_the_documents_show() -> None:
    request = voice.call(
        name="Support Call",
        owner_ref="ref001",
        from_="+6512345678",
        to="+919876543210",
        webhook_url="https://your-server.com/voice/webhook",
    )
    assert request.payload == {
        "name": "Support Call",
        "owner_ref": "ref001",
        "from": "+6512345678",
        "to": ["+919876543210"],
        "webhook": {"url": "https://your-server.com/voice/webhook"},
    }


def test_channels_keep_their_order_and_bring_their_contents() -> None:
    request = message.send(to=PHONE, channels={"whatsapp": {"a": 1}, "sms": {"b": 2}}, preference="order")
    assert request.payload == {
        "to": PHONE,
        "channels": ["whatsapp", "sms"],
        "preference": "order",
        "whatsapp": {"a": 1},
        "sms": {"b": 2},
    }


def test_a_session_message_says_what_it_says_in_more() -> None:
    request = whatsapp.send(from_="SHOP", to=PHONE, type_="text", more={"text": {"body": "Hello"}})
    assert request.payload == {"from": "SHOP", "to": PHONE, "type": "text", "text": {"body": "Hello"}}
    with pytest.raises(InvalidPayload, match="neither a template nor"):
        whatsapp.send(from_="SHOP", to=PHONE)


REFUSED: Final[list[tuple[str, dict[str, Any], str]]] = [
    ("voice.call", {"to": "919876543210"}, "to is a phone number in E.164"),
    ("voice.call", {"to": "+0919876543210"}, "to is"),
    ("voice.call", {"to": "+91 98765 43210"}, "to is"),
    ("voice.call", {"to": "+9198765432101234"}, "to is"),
    ("voice.call", {"to": "+91\u0669\u0668\u0667\u0666\u0665"}, "to is"),
    ("voice.call", {"to": f"{PHONE}\n"}, "to is"),
    ("voice.call", {"to": ""}, "to is"),
    ("voice.call", {"to": None}, "to is a list of phone numbers, with at least one"),
    ("voice.call", {"to": []}, "to is a list of phone numbers, with at least one"),
    ("voice.call", {"to": PHONE.encode()}, "to is a list"),
    ("voice.call", {"to": {PHONE}}, "to is a list"),
    ("voice.call", {"to": [PHONE, 919876543210]}, r"to\[1\] is a phone number in E.164"),
    ("voice.call", {"from_": None}, "from is a text that is not empty"),
    ("voice.call", {"from_": " "}, "from is a text that is not empty"),
    ("voice.call", {"name": ""}, "name is a text"),
    ("voice.call", {"owner_ref": ""}, "owner_ref is a text"),
    ("voice.call", {"owner_ref": 4711}, "owner_ref is a text"),
    ("voice.call", {"auto_record": "a text"}, "auto_record is true or false"),
    ("voice.call", {"auto_record": 1}, "auto_record is true or false"),
    ("voice.call", {"action_on_connect": "play"}, "action_on_connect is an object"),
    ("voice.call", {"webhook_url": "ftp://example.com/"}, r"webhook\.url is a whole URL"),
    ("voice.call", {"webhook_url": "https:///path"}, r"webhook\.url is a whole URL"),
    ("voice.call", {"webhook_url": "https://example.com:port/"}, r"webhook\.url is a whole URL"),
    ("voice.call", {"webhook_url": "https://[::1/"}, r"webhook\.url is a whole URL"),
    ("voice.call", {"webhook_url": "https://example.com/a b"}, r"webhook\.url is a whole URL"),
    ("voice.call", {"webhook_url": ""}, r"webhook\.url is a text"),
    ("voice.broadcast", {"recipients": []}, "recipients is a list"),
    ("voice.broadcast", {"recipients": [PHONE, "nobody"]}, r"recipients\[1\] is"),
    ("voice.broadcast", {"retry": {}}, "retry is an object that is not empty"),
    ("sms.send", {"to": [PHONE] * 501}, "to holds 501 numbers, more than 500: send it in parts"),
    ("sms.send", {"data": ""}, "data is a text"),
    ("sms.send", {"validity": -1}, "validity is a whole number that is not negative, or a text"),
    ("sms.send", {"validity": 1.5}, "validity is a whole number"),
    ("sms.send", {"validity": True}, "validity is a whole number"),
    ("sms.send", {"validity": " "}, "validity is a whole number"),
    ("sms.send", {"template_id": 7}, "template_id is a text"),
    ("whatsapp.send", {"to": [PHONE]}, "to is a phone number"),
    ("whatsapp.send", {"template": ""}, r"template\.name is a text"),
    ("whatsapp.send", {"template": {"language": {"code": "en"}}}, r"template\.name is a text"),
    ("whatsapp.send", {"template": {"name": "a", "language": "en"}}, r"template\.language is an object"),
    (
        "whatsapp.send",
        {"template": {"name": "a", "language": {"policy": "x"}}},
        r"template\.language\.code is",
    ),
    ("rcs.send", {"phone": "12345"}, "phone is a phone number"),
    ("rcs.send", {"agent": None}, "agent is a text"),
    ("rcs.send", {"ttl": timedelta(hours=1)}, "ttl is a whole number"),
    ("rcs.template", {"ttl": -60}, "ttl is a whole number"),
    ("rcs.template", {"template": None}, "template is an object"),
    ("message.send", {"channels": ["sms"]}, "channels is an object"),
    ("message.send", {"channels": {}}, "channels is an object"),
    ("message.send", {"channels": {"sms": "Hello"}}, "sms is an object"),
    ("message.send", {"channels": {"to": {"a": 1}}}, "channels holds to, which is a field and no channel"),
    ("message.send", {"preference": "price"}, "preference is one of order, budget, priority"),
]


@pytest.mark.parametrize(("endpoint", "wrong", "complaint"), REFUSED, ids=lambda each: str(each)[:40])
def test_a_field_that_breaks_a_rule_is_named(endpoint: str, wrong: dict[str, Any], complaint: str) -> None:
    send, arguments, _ = LEAST[endpoint]
    with pytest.raises(InvalidPayload, match=rf"^{complaint}") as caught:
        send(**{**arguments, **wrong})
    assert PHONE not in str(caught.value)


def test_as_many_recipients_as_the_api_takes_are_taken() -> None:
    assert len(sms.send(from_="SHOP", to=[PHONE] * sms.MOST_RECIPIENTS, data="Hello").payload["to"]) == 500


def test_a_request_is_not_changed_by_what_happens_to_its_parts() -> None:
    numbers, more = [PHONE], {"a": 1}
    request = sms.send(from_="SHOP", to=numbers, data="Hello", more=more)
    numbers.clear()
    more.clear()
    assert (request.payload["to"], request.payload["a"]) == ([PHONE], 1)
    written(NewOperation(request))
    assert "reference" not in request.payload


def test_a_request_shows_nobody_its_numbers() -> None:
    assert PHONE not in repr(sms.send(from_="SHOP", to=PHONE, data="Hello"))


def test_a_request_takes_no_second_payload() -> None:
    with pytest.raises(InvalidPayload, match="holds its payload already"):
        _one(NewOperation(sms.send(from_="SHOP", to=PHONE, data="Hello"), {"to": PHONE}))


def test_a_key_that_cannot_be_sent_is_refused_as_a_key() -> None:
    with pytest.raises(InvalidKey):
        _one(NewOperation(sms.send(from_="SHOP", to=PHONE, data="Hello"), idempotency_key="\0"))
