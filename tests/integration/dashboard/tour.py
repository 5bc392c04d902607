"""A tour of the admin page: every page and state of it, what is to be seen there, and where every link leads.

``test_tour.py`` goes it in Chromium; ``tests/unit/test_dashboard_templates.py`` fails for whatever in the
templates is not on the way. The numbers are those of ``storm.sql``; the ``empty`` outbox has no account even.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

Steps = tuple[tuple[str, str | None], ...]
"""What is done on a page: selectors, each with what is typed there; None: it is clicked."""

BY_NUMBER: Final[Steps] = (("#text", "+49 151 / 1234 5678"), (".search button", None))
REVEAL: Final[Steps] = (('button:has-text("Reveal")', None),)


@dataclass(frozen=True, slots=True)
class Stop:
    """A page in one state, as it is on a desk and on a phone.

    What is seen is told as words that are to be read, or as selectors, which begin with one of ``#.[``; each
    on a line, or between bars.
    """

    path: str
    shows: str
    wide: str = ""
    """What a phone has no room for."""
    ada: str = ""
    """What only an administrator is shown."""
    rita: str = ""
    """What only a reader is shown."""
    via: Steps = ()
    """How to get there from *path*."""
    people: tuple[str, ...] = ("ada", "rita")
    world: str = "storm"
    broken: tuple[str, str] | None = None
    """Statements that break the outbox before, and mend it afterwards."""

    def shown_to(self, name: str) -> list[str]:
        """All that *name* is to see, on a phone too."""
        return sights(self.shows) + sights({"ada": self.ada, "rita": self.rita}.get(name, ""))


@dataclass(frozen=True, slots=True)
class Link:
    """Where a link of a page leads an administrator."""

    path: str
    selector: str
    to: str
    """``*`` stands for a number."""


def sights(told: str) -> list[str]:
    """The words and selectors of *told*."""
    return [each.strip() for each in re.split(r"\n| \| ", told) if each.strip()]


def is_selector(sight: str) -> bool:
    """Whether it is a selector, and not words."""
    return sight[0] in "#.["


OVERVIEW: Final = (
    Stop(
        "/",
        """
        #main | #live[hx-get="/"] | [aria-current="page"] | #text | Find | As of
        Claims are shut | restored the snapshot of 02:00. Nothing is sent until somebody says what was lost
        Executed twice, or not as recorded | #conflict-104-2 | #conflict-105-2
        Operation 104, attempt 2: executed, but on record as failed | two provider ids: executed twice
        #state-queued | queued | in flight | succeeded | failed | cancelled | unresolved | .tile.none
        #plots svg | #backlog | due and not claimed, the oldest for | and 3 lanes more
        #expiring | Time left | #expiring-106 | #expiring-107 | over
        #accounts | open | throttled | sms.send for 1 h | HTTP 503: MAINTENANCE
        paused for 2 h | wrong caller id, asked Mia | blocked one at a time: HTTP 401: UNAUTHORIZED
        blocked | for 1 h | in doubt | ambiguous attempts in a row opened its breaker
        #fleet | on duty | gone
        """,
        wide="At most | 50/s, burst 100 | burst 100 | 5/s",
        ada="""
        ada admin | [placeholder="Id, key, provider id or phone number"] | Actions
        #resume-partner | #resume-otp | #resume-billing | #resume-campaign | Resume partner
        #pause-default | #pause-otp | Pause default
        """,
        rita='rita reader | [placeholder="Id, key or provider id"]',
    ),
    Stop("/?did=pause", ".notice | Paused: nothing of it is claimed."),
    Stop("/?did=resume", ".notice | Resumed."),
    Stop(
        "/throughput",
        '[aria-label^="Attempts of the last hour: 1 accepted"] | Attempts a minute | p95 30 s',
    ),
    Stop(
        "/",
        """
        [aria-label="No attempt was made in the last hour."] | 0 queued
        [aria-label="No attempt was accepted in the last hour."]
        Nothing is due that was not claimed. | Nothing that will be retried is in doubt.
        There is no account yet: ringonce account set | No worker is on duty: ringonce worker
        """,
        world="empty",
    ),
)

LISTS: Final = (
    Stop("/operations", '[aria-label="Operations"] | #operation-11000 | #older | Older | Show'),
    Stop(
        "/operations?state=failed&account=default&endpoint=voice.call",
        "#operation-104 | #operation-110 | [value=failed][selected] | Show all",
        wide="HTTP 400: •••77 is not a valid number",
    ),
    Stop(
        "/operations?account=partner",
        """
        None among those looked through. | Look further back
        10,000 operations were looked through, down to 1001.
        """,
    ),
    Stop(
        "/operations?account=partner&after=1001",
        "#newest | Newest | #operation-108 | cancelled | #operation-109 | expired",
    ),
    Stop("/operations", "There is no such operation.", world="empty"),
    Stop(
        "/",
        "#operation-102 | #operation-105 | By id, key or provider id",
        via=(("#text", "job-7"), (".search button", None)),
    ),
    Stop(
        "/",
        ".empty | No operation has this id, key or provider id.",
        ada="""
        By phone number | The number occurs in no payload that was looked through.
        10,000 operations were looked through, down to 1001. | Look further back
        """,
        rita="To look for a phone number takes the role outbox_admin.",
        via=BY_NUMBER,
    ),
    Stop(
        "/",
        "#operation-308 | By phone number",
        via=(*BY_NUMBER, ('button:has-text("Look further back")', None)),
        people=("ada",),
    ),
    Stop(
        "/",
        "The number occurs in no payload that was looked through. | Enqueued on this day (UTC) or before",
        via=(*BY_NUMBER, ("#day", "2001-01-01"), ('button:has-text("Look from there")', None)),
        people=("ada",),
    ),
    Stop("/unresolved", "Nothing waits for a person.", world="empty"),
    Stop(
        "/unresolved",
        """
        #case-112 | #operation-112 | yes | perhaps | no | lane orders | #more | Younger
        Got | sent | answered | its worker was lost | Status | 502 | Error | cut off by its lease
        left: the key still protects a retry | window closes
        .window.over | since the key's window closed: it protects no retry | window closed
        """,
        ada="""
        #executed-218 | It was executed | #not-executed-218 | It was not executed
        #retry-218 | Retry under the same key | #reissue-218 | Reissue under a new key
        """,
    ),
    Stop("/unresolved?after=238", "#case-240 | #first | Oldest"),
)

OPERATIONS: Final = (
    Stop(
        "/operations/101",
        """
        #story | Attempt 1 | in flight | under way | may have been executed | deadline
        #facts | Leased by | When done shop.called | Trace 00-4bf92f3577b34da6a3ce929d0e0e4736 | 76 bytes
        """,
    ),
    Stop(
        "/operations/102",
        """
        not sent | not executed | took 30 s | connecting | by calls-1/91 | throttled | HTTP 429
        accepted | executed | Provider id job-7 | Answer 200 | #contents
        #deliveries | Whom it reached | •••10 | DELIVRD
        """,
        ada="""
        They hold phone numbers and messages, and are not shown unless you ask. That you did is logged.
        Reveal
        """,
        rita="They hold phone numbers and messages: to see them takes the role outbox_admin.",
    ),
    Stop(
        "/operations/102",
        '[aria-label="Request"] | order-4711 | [aria-label="Answer"] | Content-Type: application/json',
        via=REVEAL,
        people=("ada",),
    ),
    Stop("/operations/103", "Payload scrubbed | scrubbed"),
    Stop(
        "/operations/103",
        "#contents ~ h3 | It was scrubbed. | There is none, or it was scrubbed.",
        via=REVEAL,
        people=("ada",),
    ),
    Stop(
        "/operations/104",
        "accepted, late | resolve by ada | not in their portal | job-8",
        ada="#deed-reissue",
    ),
    Stop(
        "/operations/104",
        """[aria-label="Late answer to attempt 2"] | Late answer to attempt 2 | {"job_id": "job-8"}""",
        via=REVEAL,
        people=("ada",),
    ),
    Stop(
        "/operations/106",
        """
        disproved by a later answer | next attempt, in 5 h | in 5 h | API settles | 3 times in a row
        left: the key still protects a retry | 2 of at most
        """,
        ada='[aria-label="What can be done"] | #deed-retry | #deed-cancel | .button.grave',
    ),
    Stop(
        "/operations/107",
        "next attempt, due | .window.over | since the key's window closed: it protects no retry",
    ),
    Stop(
        "/operations/110",
        "#reissued-as | Done again as | HTTP 400: •••77 is not a valid number | reissue by ada",
    ),
    Stop("/operations/111", "#reissue-of | Does again", ada="#deed-cancel"),
    Stop(
        "/operations/112",
        "which did not say what came of it | .window.over",
        ada="#deed-executed | #deed-not-executed | #deed-reissue",
    ),
)

DEEDS: Final = (
    Stop(
        "/operations/106/retry",
        "It is queued now | left: the key still protects a retry",
        people=("ada",),
    ),
    Stop("/operations/112/executed", "#reason | It is unresolved now | Leave it as it is", people=("ada",)),
    Stop("/operations/301/cancel", ".deed button.grave | It is not sent any more.", people=("ada",)),
    Stop(
        "/operations/301/cancel",
        ".alarm | claims are shut: restored the snapshot of 02:00",
        via=(("#reason", "as they told me"), (".deed button", None)),
        people=("ada",),
    ),
    Stop("/operations/301?did=cancel", ".notice | Taken back."),
    Stop("/accounts/partner/resume", "Resume: account partner | Lifts the pause", people=("ada",)),
)

REFUSALS: Final = (
    Stop("/", "Who are you? | log in as a user of Postgres.", people=("",), world="empty"),
    Stop("/", "Not allowed | neither of the roles", people=("stranger",), world="empty"),
    Stop("/", "Not allowed | proves nothing", people=("trusted",), world="empty"),
    Stop("/accounts/default/pause", "Not allowed | this takes the role outbox_admin.", people=("rita",)),
    Stop("/operations/999999999", "Not found | there is no operation 999999999."),
    Stop("/accounts/nobody/pause", "Not found | there is no account 'nobody'.", people=("ada",)),
    Stop("/operations/101/destroy", "Not found | there is no such action.", people=("ada",)),
    Stop("/nowhere", "Not found | there is no such page.", people=("",), world="empty"),
    Stop(
        "/",
        "Not now | the database has no outbox that this page knows: run `ringonce migrate`.",
        people=("ada",),
        world="empty",
        broken=("alter view outbox.status rename to away", "alter view outbox.away rename to status"),
    ),
    Stop(
        "/unresolved",
        "Refused | Postgres refused:",
        people=("ada",),
        world="empty",
        broken=(
            "alter view outbox.unresolved rename column lane to away",
            "alter view outbox.unresolved rename column away to lane",
        ),
    ),
)

STOPS: Final = OVERVIEW + LISTS + OPERATIONS + DEEDS + REFUSALS

STATES: Final = ("queued", "in_flight", "succeeded", "failed", "expired", "cancelled")
LINKS: Final = (
    Link("/operations", ".brand", "/"),
    Link("/operations", '.top nav a[href="/"]', "/"),
    Link("/", '.top nav a[href="/operations"]', "/operations"),
    Link("/", '.top nav a[href="/unresolved"]', "/unresolved"),
    *(Link("/", f"#state-{state}", f"/operations?state={state}") for state in STATES),
    Link("/", "#state-unresolved", "/unresolved"),
    Link("/", "#conflict-104-2", "/operations/104"),
    Link("/", "#expiring-106", "/operations/106"),
    Link("/", "#pause-default", "/accounts/default/pause"),
    Link("/", "#resume-partner", "/accounts/partner/resume"),
    Link("/operations", "#operation-11000", "/operations/11000"),
    Link("/operations", "#older", "/operations?after=*"),
    Link("/operations?state=failed", 'a:has-text("Show all")', "/operations"),
    Link("/operations?account=partner", "#older", "/operations?account=partner&after=*"),
    Link("/operations?account=partner&after=1001", "#newest", "/operations?account=partner"),
    Link("/unresolved", "#more", "/unresolved?after=*"),
    Link("/unresolved?after=238", "#first", "/unresolved"),
    Link("/unresolved", "#operation-112", "/operations/112"),
    *(
        Link("/unresolved", f"#{deed}-218", f"/operations/218/{deed}")
        for deed in ("executed", "not-executed", "retry", "reissue")
    ),
    Link("/operations/101", ".crumb a", "/operations"),
    Link("/operations/110", "#reissued-as", "/operations/111"),
    Link("/operations/111", "#reissue-of", "/operations/110"),
    Link("/operations/112", "#deed-executed", "/operations/112/executed"),
    Link("/operations/301/cancel", ".crumb a", "/operations/301"),
    Link("/operations/301/cancel", 'a:has-text("Leave it as it is")', "/operations/301"),
    Link("/accounts/default/pause", 'a:has-text("Leave it as it is")', "/"),
    Link("/nowhere", ".alarm a", "/"),
)
