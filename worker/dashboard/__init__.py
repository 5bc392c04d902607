"""The admin page: what happened to this customer's call, and what can be done about it.

    server.py      a process of its own, on 127.0.0.1 unless told
    app.py         which address shows what
    logins.py      who asks: a login of Postgres, or whom a trusted proxy names
    visits.py      one request: its person, their connection, what they filled in; refusals become pages
    shield.py      headers, and tokens against forged forms
    overview.py    the whole: states, backlog, throughput, accounts, fleet
    operations.py  the lists, the search, one operation, what waits for a person
    deeds.py       what administrators do, each with a reason and a page that asks once more
    plotting.py    pure: the bars and lines of the plots
    words.py       pure: how values are written
    rendering.py   templates
    templates/ static/    the pages; htmx.min.js is htmx 2 (Zero-Clause BSD, static/htmx.LICENSE)

Every page is whole without JavaScript, and every action a plain form. With it, what lives on a page (the
element ``live``) is fetched anew every few seconds.

Decisions:
    2026-11-28: no login of our own. A name and a password are tried on Postgres itself, which keeps them,
    ends them and writes them into the audit: each person works over a connection of their own, in the
    role outbox_admin or outbox_reader. Behind a proxy, which knows people but no passwords, the page's own
    user puts on the role of whom the proxy names, and the audit holds both names.
    2026-11-28: a password that Postgres did not ask for proves nothing (trust, peer): it is refused.
    2026-11-28: no session and no cookie. A token in each form, made for one person and one process, tells
    that the form came from a page of ours.
    2026-11-28: forms that search are posted: a phone number in an address would stand in every log.
    2026-11-28: what an action asks for stands on a page of its own, because what lives on a page is
    replaced while somebody types.
"""

from __future__ import annotations

from worker.dashboard.logins import Proxy
from worker.dashboard.server import serve

__all__ = ["Proxy", "serve"]
