"""The admin page as a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection

from worker.dashboard.app import build
from worker.dashboard.logins import Logins, Proxy
from worker.serving import Place, serve_app

__all__ = ["serve"]


def serve(
    url: str,
    place: Place,
    *,
    proxy: Proxy | None = None,
    allowed_hosts: Collection[str] = (),
    on_start: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve the admin page of the outbox in the database *url*, in this thread, until SIGINT or SIGTERM.

    *on_start* is told its address as soon as connections are accepted. Browsers may call it by any address,
    by the name that the place's host is, and by *allowed_hosts*.

    Raises:
        OSError: the port is taken, or a file of the certificate is not readable.
    """
    app = build(Logins(url, proxy), (place.host, *allowed_hosts))
    serve_app(app, place, grace_seconds=2, on_start=on_start)
