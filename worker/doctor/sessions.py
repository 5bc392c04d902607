"""The way to Postgres: whether others can read along, and whose the sessions are that it leads to."""

from __future__ import annotations

from ipaddress import ip_address

from worker.complaint import complaint
from worker.doctor.finding import Finding, Findings, fine, problem, warning
from worker.doctor.patient import Patient
from worker.errors import SettingsError, StoreUnavailable
from worker.store.connection import SECONDS, conninfo
from worker.store.sessions import check_direct, has_own_session, is_shared
from worker.store.statements import rows

__all__ = ["encryption", "limits", "sessions"]


def encryption(patient: Patient) -> Findings:
    """Whether what is said to Postgres, payloads and phone numbers, can be read on its way."""
    info = patient.conn.info
    if patient.conn.pgconn.ssl_in_use or rows(patient.conn, "doctor_gssapi", pid=info.backend_pid):
        yield fine("encryption", "the way to Postgres is encrypted")
    elif info.host.startswith("/") or _is_loopback(info.hostaddr):
        yield fine("encryption", "Postgres, or a proxy to it, is on this machine")
    else:
        advice = "sslmode=verify-full and sslrootcert=... in RINGONCE_DATABASE_URL"
        yield warning("encryption", f"the way to {info.host} is not: phone numbers can be read on it", advice)


def sessions(patient: Patient) -> Findings:
    """Whether what needs a session of its own gets one: LISTEN, migrations, the admin page."""
    settings = patient.settings
    if settings.direct_url is not None:
        yield _direct(patient, settings.direct_url.get_secret_value())
    elif not is_shared(patient.conn, _info(patient)):
        yield fine("sessions", "each connection has its own")
    elif settings.notify:
        yield warning(
            "sessions",
            "a pooler shares them: nobody hears NOTIFY, and what is enqueued waits for a poll",
            "set RINGONCE_DIRECT_URL to Postgres itself, or RINGONCE_NOTIFY=false to only poll",
        )
    else:
        yield fine("sessions", f"a pooler shares them; bells poll every {settings.poll_seconds:g} s")


def limits(patient: Patient) -> Findings:
    """Whether what workers ask behind a pooler, where they set no limits of their own, may take its time.

    They wait for ``SECONDS`` themselves: a limit above that does not concern them.
    """
    if has_own_session(patient.conn):
        yield fine("limits", "workers set their own")
        return
    low = [each for each in rows(patient.conn, "doctor_limits") if 0 < each["seconds"] < SECONDS]
    for each in low:
        told = f"{each['name']} is {each['seconds']:g} s behind the pooler, where workers leave it alone"
        advice = f"alter role {patient.conn.info.user} set {each['name']} = '15s', or 0"
        yield warning("limits", told, advice)
    if not low:
        yield fine("limits", "none ends what workers ask")


def _direct(patient: Patient, url: str) -> Finding:
    advice = "see what RINGONCE_DIRECT_URL says: Postgres itself, and this database"
    try:
        deaf = check_direct(_info(patient), conninfo(url, "ringonce doctor"), listens=True)
    except (SettingsError, StoreUnavailable) as error:
        return problem("sessions", complaint(error), advice)
    if deaf:
        return problem("sessions", "RINGONCE_DIRECT_URL leads to a pooler that shares them, too", advice)
    return fine("sessions", "RINGONCE_DIRECT_URL leads past the pooler, to the same database")


def _info(patient: Patient) -> str:
    return conninfo(patient.settings.database_url.get_secret_value(), "ringonce doctor")


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
