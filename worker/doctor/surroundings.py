"""What workers need beside the database: the brokers, the APP KEYs, and a way to each API."""

from __future__ import annotations

import socket
import ssl
import time
from collections import defaultdict
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from kombu import Connection
from kombu.exceptions import KombuError

from worker.complaint import complaint
from worker.credentials import Credentials
from worker.doctor.finding import Finding, Findings, fine, problem, warning
from worker.doctor.patient import Patient
from worker.errors import SettingsError
from worker.rope import is_refusal
from worker.settings import Settings

__all__ = ["apis", "broker", "keys", "on_done_broker"]

BROKER_SECONDS: Final = 5
NO_SUCH_QUEUE: Final = 404
"""AMQP's number for that."""
REFUSED: Final = "see user, password, virtual host or database number in the URL, and what that user may do"
PORTS: Final = {"http": 80, "https": 443}


def broker(settings: Settings) -> Findings:
    """Whether what carries wake-ups answers."""
    url = settings.broker_url.get_secret_value()
    if url.startswith("memory:"):
        yield fine("broker", "memory://: Postgres alone is enough")
        return
    advice = "see whether it runs; until then each node drains by itself, only later"
    yield _asked("broker", url, advice)


def on_done_broker(settings: Settings) -> Findings:
    """Whether the app's broker, if the settings name one, answers and has the queue that tasks go to."""
    if settings.on_done_broker_url is not None:
        advice = "see whether it runs; until then the tasks of on_done are kept, and sent later"
        url = settings.on_done_broker_url.get_secret_value()
        yield _asked("on_done broker", url, advice, queue=settings.on_done_queue)


def _asked(check: str, url: str, advice: str, *, queue: str | None = None) -> Finding:
    """Whether the broker at *url* answers, and has the *queue*; nothing is sent, and none is made."""
    scheme = url.partition("://")[0]
    told = f"{scheme} answers"
    options = {"socket_connect_timeout": BROKER_SECONDS, "socket_timeout": BROKER_SECONDS}
    line = Connection(
        url, connect_timeout=BROKER_SECONDS, transport_options=options if scheme.startswith("redis") else {}
    )
    try:
        line.ensure_connection(max_retries=0)
        channel: Any = line.channel()  # Redis is not spoken to before
        if queue is not None and not scheme.startswith("redis"):  # which has any queue that is written to
            channel.queue_declare(queue=queue, passive=True)
            told += f", and has the queue {queue}"
    except _broken(line) as error:
        if queue is not None and getattr(error, "reply_code", None) == NO_SUCH_QUEUE:
            advice = "start the app's workers once, which declare it; or see what RINGONCE_ON_DONE_QUEUE says"
            return warning(check, f"{scheme} answers, and has no queue {queue}", advice)
        if is_refusal(error):
            say = (
                problem if queue is None else warning
            )  # no worker starts so, but for want of on_done they do
            return say(check, f"{scheme} answers, and refuses: {complaint(error)}", REFUSED)
        return warning(check, f"{scheme} does not answer: {complaint(error)}", advice)
    finally:
        line.collect(socket_timeout=1)
    return fine(check, told)


def _broken(line: Connection) -> tuple[type[BaseException], ...]:
    return (ImportError, KombuError, OSError, *line.connection_errors, *line.channel_errors)


def keys(patient: Patient) -> Findings:
    """Whether each account has an APP KEY here; nobody is told which."""
    credentials = Credentials(patient.settings)
    work = patient.work()
    missing = False
    for account in patient.destinations:
        try:
            credentials.basic(account.name, account.app_id)
        except SettingsError as error:
            missing = True
            say = problem if work and work[account.name] else warning
            waiting = "" if work is None else f" ({work[account.name]:,} operations of it are not final)"
            advice = "set it wherever workers run; RINGONCE_SECRETS_DIR lets it be renewed"
            yield say("APP KEYs", f"{error}{waiting}", advice)
    if not missing:
        yield fine("APP KEYs", f"each of {len(patient.destinations)} accounts has one here")


def apis(patient: Patient) -> Findings:
    """Whether each API can be reached from here: a connection and its TLS, and no request."""
    settings = patient.settings
    users: dict[SplitResult, list[str]] = defaultdict(list)
    for account in patient.destinations:
        users[urlsplit(account.base_url)._replace(path="")].append(account.name)
    if not settings.tls_verify:
        advice = "leave RINGONCE_TLS_VERIFY alone, unless it is an imitation"
        yield warning("APIs", "certificates are not checked: whoever answers learns the APP KEYs", advice)
    for url, names in users.items():
        yield from _api(url, ", ".join(names), settings)


def _api(url: SplitResult, names: str, settings: Settings) -> Findings:
    place = f"{url.geturl()} (of {names})"
    if url.scheme == "http" and not _is_here(url.hostname or ""):
        yield warning("APIs", f"{place} is not encrypted: the APP KEY can be read on its way", "use https")
    began_at = time.monotonic()
    try:
        _reach(url, settings)
    except (OSError, ValueError) as error:
        advice = "see name, route, firewall and certificate; RINGONCE_CA_FILE brings a CA of one's own"
        yield problem("APIs", f"{place} cannot be reached: {complaint(error)}", advice)
    else:
        yield fine("APIs", f"{place} is reached in {(time.monotonic() - began_at) * 1000:,.0f} ms")


def _reach(url: SplitResult, settings: Settings) -> None:
    """Connect, and shake hands if it is TLS, as workers do.

    Raises:
        OSError: it cannot be reached, or its certificate is not good.
        ValueError: its name or port is none.
    """
    host, port = url.hostname or "", url.port or PORTS[url.scheme]
    with socket.create_connection((host, port), timeout=settings.connect_seconds) as line:
        if url.scheme == "https":
            _trust(settings).wrap_socket(line, server_hostname=host).close()


def _trust(settings: Settings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca_file)
    if not settings.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _is_here(host: str) -> bool:
    """Whether what is sent to *host* does not leave this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
