"""What a webhook tells: of which operation, of whom, how far it came, and when. Pure.

No provider's form is presumed. Fields are looked for by their usual names, however deep they lie; a list of
objects is a report of each, and each inherits what stands above it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Final
from urllib.parse import parse_qsl

from worker.plain import masked, one_line

__all__ = ["MOST_REPORTS", "STATES", "Reading", "Report", "read"]

MOST_REPORTS: Final = 1000
"""Of one webhook: twice the recipients of one SMS. Further ones are in the body, and nowhere else."""
MOST_OBJECTS: Final = 5000
"""Of one body: five for each report. One that holds more is kept, and not read."""
MOST_FIELDS: Final = 200
"""Names that count, of a report and all that it inherits."""
MOST_VALUES: Final = 4
"""Of one name, the innermost first."""
LONGEST_TEXT: Final = 2000
"""Characters of a text in which ids, keys and words are looked for."""
DEEPEST: Final = 8
LONGEST: Final = 255
"""Characters of an id or a key."""
MOST_NAMES: Final = 40
"""Ids, or keys, of one report."""
AHEAD: Final = timedelta(days=1)
"""How far the provider's clock may be ahead. A time in the far future would outrank all that follows."""
FIRST_TIME: Final = datetime(2000, 1, 1, tzinfo=UTC)
MILLISECONDS_FROM: Final = 1e11
"""Seconds since 1970 are fewer than this until the year 5138."""

STATES: Final[dict[str, frozenset[str]]] = {
    state: frozenset(words.split())
    for state, words in {
        "queued": "queued accepted submitted scheduled created initiated pending processing received started",
        "sent": "sent dispatched enroute en_route buffered submitted_to_carrier",
        "ringing": "ringing alerting dialing dialling calling",
        "answered": "answered connected in_progress bridged",
        "delivered": "delivered",
        "read": "read seen opened",
        "ended": "ended completed complete disconnected hangup hung_up finished",
        "failed": "failed failure error undelivered undeliverable not_delivered rejected expired busy "
        "no_answer noanswer canceled cancelled blocked invalid unreachable declined",
    }.items()
}
"""The provider's words for each state of ``outbox.delivery_state``."""
_STATE_OF: Final = {word: state for state, words in STATES.items() for word in words}

_STATUS: Final = (
    "status",
    "state",
    "delivery_status",
    "call_status",
    "call_state",
    "message_status",
    "event",
)
_STATUS_LESS: Final = ("event_type", "type", "description")
_TIME: Final = (
    "timestamp",
    "event_time",
    "occurred_at",
    "status_time",
    "time",
    "updated_at",
    "date",
    "created_at",
)
_RECIPIENT: Final = ("recipient", "to", "phone", "phone_number", "msisdn", "destination", "number", "wa_id")
_REFERENCE: Final = (
    "owner_ref",
    "reference",
    "custom_data",
    "idempotency_key",
    "client_ref",
    "correlation_id",
)
_EVENT_ID: Final = ("event_id", "notification_id")
_EVENT_HEADERS: Final = ("webhook-id", "x-event-id", "x-webhook-id")
_UUID: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_KEY: Final = re.compile(r"[!-~]{1,255}")
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

Fields = dict[str, tuple[object, ...]]
"""Values by name, the innermost first."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a webhook tells of one recipient."""

    ids: Mapping[str, str]
    """By the names of their fields: which of them is the provider's id is the endpoint's to say."""
    keys: tuple[str, ...]
    """What may be the operation's idempotency key."""
    recipient: str
    state: str
    """A word of ``outbox.delivery_state``."""
    status: str
    """The provider's own."""
    told_at: datetime | None
    """By the provider's clock; None: no time that can be."""

    def to_json(self) -> dict[str, object]:
        """As ``outbox.webhook.reports`` holds it."""
        at = None if self.told_at is None else self.told_at.isoformat()
        return {
            "ids": dict(self.ids),
            "keys": list(self.keys),
            "recipient": self.recipient,
            "state": self.state,
            "status": self.status,
            "told_at": at,
        }


@dataclass(frozen=True, slots=True)
class Reading:
    """What a webhook tells, and how it is known again."""

    digest: bytes
    """SHA-256 of its event's id with what was read, if it names one, else of its body."""
    reports: tuple[Report, ...]
    """Those that name something; none: it cannot be read."""


def read(body: bytes, headers: Mapping[str, str], now: datetime) -> Reading:
    """Read a webhook; *headers* by their names in lower case."""
    content = _content(body, headers.get("content-type", ""))
    found = (
        report for fields in islice(_told(content, {}, 0), MOST_REPORTS) for report in _reports(fields, now)
    )
    try:
        reports = tuple(islice(found, MOST_REPORTS))
    except RecursionError:  # to write JSON takes more of the stack than to read it
        reports = ()
    return Reading(_digest(body, content, headers, reports), reports)


def _content(body: bytes, kind: str) -> object:
    if body.count(b"{") > MOST_OBJECTS:
        return None
    try:
        if kind.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
            return dict(parse_qsl(body.decode(), max_num_fields=200))
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _digest(body: bytes, content: object, headers: Mapping[str, str], reports: tuple[Report, ...]) -> bytes:
    """What it is known by. With an id goes what it tells: the id may be the subscription's, or the call's."""
    ids = [headers[name] for name in _EVENT_HEADERS if headers.get(name)]
    if isinstance(content, dict):
        named = {_plain(name): value for name, value in content.items()}
        ids += [named[name] for name in _EVENT_ID if isinstance(named.get(name), str) and named[name]]
    if not ids or not reports:
        return hashlib.sha256(body).digest()
    told = json.dumps([each.to_json() for each in reports]).encode()
    known_by = b"\0".join([b"event", ids[0].encode("utf-8", "surrogatepass"), told])
    return hashlib.sha256(known_by).digest()


def _plain(name: str) -> str:
    return _HUMP.sub("_", name).replace("-", "_").lower()


def _told(node: object, above: Fields, depth: int) -> Iterator[Fields]:
    """The fields of each report in *node*, with those that stand *above* it."""
    if depth > DEEPEST:
        return
    if isinstance(node, list):
        for each in node:
            yield from _told(each, above, depth + 1)
    elif isinstance(node, dict):
        fields = dict(above)
        lists: list[list[object]] = []
        _gather(node, fields, lists, depth)
        if not lists:
            yield fields
        for each in lists:
            yield from _told(each, fields, depth + 1)


def _gather(node: Mapping[str, object], fields: Fields, lists: list[list[object]], depth: int) -> None:
    inner: list[Mapping[str, object]] = []
    for given, value in node.items():
        name = _plain(given)
        if name in _REFERENCE and isinstance(value, dict | list):
            _note(fields, name, json.dumps(value))
        elif isinstance(value, dict):
            inner.append(value)
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            lists.append(value)
        else:
            _note(fields, name, value)
            if given != name:
                _note(fields, given, value)
    for each in inner if depth < DEEPEST else ():
        _gather(each, fields, lists, depth + 1)


def _note(fields: Fields, name: str, value: object) -> None:
    if len(name) <= LONGEST and (name in fields or len(fields) < MOST_FIELDS):
        known = value[:LONGEST_TEXT] if isinstance(value, str) else value
        fields[name] = (known, *fields.get(name, ()))[:MOST_VALUES]


def _reports(fields: Fields, now: datetime) -> Iterator[Report]:
    """One on each recipient; none, if they name no operation."""
    ids, keys = dict(islice(_ids(fields), MOST_NAMES)), tuple(islice(_keys(fields), MOST_NAMES))
    if not ids and not keys:
        return
    state, status = _status(fields)
    told_at = next(filter(None, (_time(each, now) for each in _values(fields, _TIME))), None)
    for recipient in _recipients(fields):
        yield Report(ids, keys, recipient, state, status, told_at)


def _values(fields: Fields, names: tuple[str, ...]) -> Iterator[object]:
    for name in names:
        yield from fields.get(name, ())


def _status(fields: Fields) -> tuple[str, str]:
    """The first word that is known, else the first there is."""
    said = [_words(each) for each in _values(fields, _STATUS + _STATUS_LESS) if isinstance(each, str)]
    for word in said:
        if (state := _STATE_OF.get(_word(word))) is not None:
            return state, word
    return "unknown", next(filter(None, said), "")


@lru_cache(maxsize=64)  # what many reports inherit
def _words(text: str) -> str:
    """*text* as a line of a hundred characters, without the numbers of phones: it is shown to many."""
    return (masked(one_line(text[:200])) or "")[:100]


def _word(text: str) -> str:
    """``message.Delivered`` and ``NO-ANSWER`` as they stand in ``STATES``."""
    return _HUMP.sub("_", text.rpartition(".")[2]).lower().replace("-", "_").replace(" ", "_")


def _time(value: object, now: datetime) -> datetime | None:
    try:
        if isinstance(value, str) and re.fullmatch(r"\d{9,17}(\.\d+)?", value):
            value = float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            moment = datetime.fromtimestamp(value / 1000 if value >= MILLISECONDS_FROM else value, UTC)
        elif isinstance(value, str):
            moment = datetime.fromisoformat(value.strip())
            moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    return moment if FIRST_TIME <= moment <= now + AHEAD else None


def _recipients(fields: Fields) -> list[str]:
    for value in _values(fields, _RECIPIENT):
        several = value[:MOST_REPORTS] if isinstance(value, list) else [value]
        named = [one_line(str(each), 100) for each in several if isinstance(each, str | int) and each]
        if named:
            return list(dict.fromkeys(named))
    return [""]


def _ids(fields: Fields) -> Iterator[tuple[str, str]]:
    for name, values in fields.items():
        if name.lower().endswith(("id", "identifier", "token")) and len(name) <= LONGEST:
            is_text = isinstance(values[0], str | int) and not isinstance(values[0], bool)
            text = str(values[0]) if is_text else ""
            if text and text.isprintable() and name.isprintable() and len(text) <= LONGEST:
                yield name, text


def _keys(fields: Fields) -> Iterator[str]:
    """Each reference as it is, and the UUIDs in it: an app may have put more beside the key."""
    found: dict[str, None] = {}
    for value in _values(fields, _REFERENCE):
        if isinstance(value, str):
            if _KEY.fullmatch(value):
                found[value] = None
            found |= dict.fromkeys(_UUID.findall(value))
    yield from found
