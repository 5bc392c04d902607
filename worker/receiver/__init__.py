"""Takes the provider's webhooks: keeps each once, as it came, and has it lead to its operation.

    server.py    /webhooks of a process of its own
    app.py       one request: who sends it, how much of it is read, what is answered
    senders.py   whether its sender knows the secret of the account
    reports.py   pure: what a webhook tells, in whatever form
    desk.py      what is kept in Postgres, and matched there soon after

    app.mount("/webhooks", receiver(url, secrets))       # in an app of Starlette's or FastAPI's
    ringonce receiver --port 8091                        # or as a process of its own

What it tells is matched, weighed and missed in Postgres (``outbox.correlate``, ``outbox.watch_deliveries``).

Decisions:
    2026-11-29: the answer waits for one insert and its commit, and for nothing else: a provider that waits
    longer sends it again. What cannot be read is kept and answered with 200 all the same, for to have it
    sent once more would not make it readable.
    2026-11-29: EnableX documents no signature. So its sender shows a secret, in the path (all that a URL in
    a request can carry) or in a header, or signs the body with it (HMAC-SHA256), as others do. A webhook that
    is sent again by somebody else changes nothing: it is known, or an older one of its recipient.
    2026-11-29: the forms of the provider's webhooks are not documented either. Names of fields and words for
    states are looked for as they are usual; a word that is not known is kept, and counts as none.
"""

from __future__ import annotations

from worker.receiver.app import receiver
from worker.receiver.server import serve

__all__ = ["receiver", "serve"]
