"""Postgres itself: whether it keeps what it commits, cleans up behind itself, and knows the time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from worker.doctor.finding import Finding, Findings, fine, problem, warning
from worker.doctor.patient import Patient
from worker.plain import one_line
from worker.store import views
from worker.store.statements import rows

__all__ = ["clock", "durability", "slots", "snapshots", "vacuum"]

LONG: Final = timedelta(minutes=5)
"""A transaction that is open for longer keeps so much from being cleaned up that claims slow down."""
IDLE: Final = timedelta(minutes=1)
"""One that does nothing for so long was forgotten by its app."""
OFF: Final = timedelta(seconds=1)
"""Clocks that NTP keeps agree to some milliseconds."""
_LAX: Final = "synchronous_commit is off{}: claims and records wait for the disk, but an enqueue may be lost"
OF_A_ROLE: Final = frozenset({"global", "database", "user", "database user"})
"""Where Postgres says that a setting comes from, if ``alter role`` or ``alter database`` made it."""
MANY_DEAD: Final = 50_000
"""Dead rows below this slow nobody down, whatever their share."""


def durability(patient: Patient) -> Findings:
    """Whether what Postgres has committed outlives a crash of its machine."""
    [found] = rows(patient.conn, "doctor_server")
    on_disk = [name for name in ("fsync", "full_page_writes") if found[name] != "on"]
    if on_disk:
        yield problem(
            "durability",
            f"off: {' and '.join(on_disk)}; a crash may lose claims (law 1)",
            "switch it on in postgresql.conf",
        )
    elif lax := [*_lax(patient, found)]:
        yield from lax
    else:
        yield fine("durability", f"fsync is on, synchronous_commit {found['synchronous_commit']}")


def _lax(patient: Patient, server: dict[str, Any]) -> Findings:
    """Who does not wait for the disk: whoever a role or a database is set up for, or everybody else.

    What this user's own role says hides what the server says, until it is reset.
    """
    whom = rows(patient.conn, "doctor_lax")
    for each in whom:
        parts = [f"{kind} {one_line(each[kind])}" for kind in ("role", "database") if each[kind] is not None]
        alter = f"alter {' in '.join(parts) or 'role all'} reset synchronous_commit"
        yield problem("durability", _LAX.format(f" for {' in '.join(parts) or 'every role'}"), alter)
    told = whom and server["synchronous_commit_from"] in OF_A_ROLE
    if server["synchronous_commit"] == "off" and not told:
        yield problem("durability", _LAX.format(""), "set it to on in postgresql.conf, and reload")


def clock(patient: Patient, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Findings:
    """Whether the clocks of Postgres and of this machine agree, as far as the way between them shows."""
    before = now()
    [found] = rows(patient.conn, "doctor_clock")
    after = now()
    difference = found["now"] - (before + (after - before) / 2)
    within = _milliseconds(after - before)
    told = f"Postgres is {_milliseconds(difference):+,} ms off this machine, to within {within:,} ms"
    if abs(difference) <= OFF + (after - before):
        yield fine("clock", told)
        return
    advice = "one of the two is wrong: let NTP set both"
    if abs(difference) > min([_slack(each) for each in views.endpoints(patient.conn)], default=OFF):
        yield problem("clock", f"{told}: more than key_safety less settle allows (law 3)", advice)
    else:
        yield warning("clock", told, advice)


def vacuum(patient: Patient) -> Findings:
    """Whether dead rows are cleaned up, which claims would else walk over."""
    [server] = rows(patient.conn, "doctor_server")
    off = [name for name in ("autovacuum", "track_counts") if server[name] != "on"]
    if off:
        yield problem(
            "vacuum",
            f"{' and '.join(off)} off: nobody cleans up dead rows",
            "switch it on in postgresql.conf",
        )
        return
    findings = [finding for table in rows(patient.conn, "doctor_tables") for finding in _table(table)]
    yield from findings or [fine("vacuum", "autovacuum is on, and dead rows are few")]


def snapshots(patient: Patient, *, long: timedelta = LONG, idle: timedelta = IDLE) -> Findings:
    """Whether somebody holds a transaction open, so that nothing that died since can be cleaned up."""
    sessions = rows(patient.conn, "doctor_sessions")
    findings = [*_open_for_long(sessions, long, idle), *_prepared(patient, long)]
    if not findings and not all(each["seen"] for each in sessions):
        findings = [
            warning(
                "snapshots",
                "none is old among what this user may see: only its own sessions",
                "grant it pg_read_all_stats",
            )
        ]
    yield from findings or [fine("snapshots", "no transaction is old")]


def slots(patient: Patient) -> Findings:
    """Whether a replication slot keeps dead rows or the write-ahead log."""
    findings = [
        warning(
            "replication slots",
            f"{one_line(each['slot_name'])} {_kept(each)}",
            "drop it, or start its reader",
        )
        for each in rows(patient.conn, "doctor_slots")
    ]
    yield from findings or [fine("replication slots", "none holds anything back")]


def _slack(endpoint: views.EndpointOnRecord) -> timedelta:
    return endpoint.key_safety - endpoint.settle


def _table(table: dict[str, Any]) -> Iterator[Finding]:
    name, dead, live = table["name"], table["dead"], table["live"]
    if not table["autovacuum"]:
        yield problem(
            "vacuum",
            f"autovacuum is off for outbox.{name}",
            f"alter table outbox.{name} reset (autovacuum_enabled)",
        )
    if dead > max(MANY_DEAD, live // 5):
        last = table["vacuumed_at"]
        when = "never" if last is None else last.isoformat(" ", "minutes")
        yield warning(
            "vacuum",
            f"outbox.{name} has {dead:,} dead rows beside {live:,}, last vacuumed {when}",
            "see what holds old snapshots (below); then vacuum analyze it",
        )


def _open_for_long(sessions: list[dict[str, Any]], long: timedelta, idle: timedelta) -> Iterator[Finding]:
    for each in sessions:
        who = one_line(
            f"{each['usename'] or each['backend_type']}, {each['application_name']!r}, pid {each['pid']}"
        )
        stop = f"end it there, or select pg_terminate_backend({each['pid']})"
        if (each["state"] or "").startswith("idle in transaction") and each["idle_for"] >= idle:
            yield warning(
                "snapshots",
                f"idle in transaction for {_seconds(each['idle_for'])} s: {who}",
                f"{stop}; idle_in_transaction_session_timeout does so by itself",
            )
        elif each["open_for"] is not None and each["open_for"] >= long:
            yield warning("snapshots", f"a transaction open for {_seconds(each['open_for'])} s: {who}", stop)


def _prepared(patient: Patient, long: timedelta) -> Iterator[Finding]:
    for each in rows(patient.conn, "doctor_prepared"):
        if each["age"] >= long:
            name = one_line(each["gid"])
            yield warning(
                "snapshots",
                f"a prepared transaction {_seconds(each['age'])} s old: {name}",
                "commit prepared, or rollback prepared",
            )


def _kept(slot: dict[str, Any]) -> str:
    held = []
    if slot["xmin_age"] is not None:
        held.append(f"holds back vacuum by {slot['xmin_age']:,} transactions")
    if not slot["active"]:
        held.append("has no reader and keeps the write-ahead log")
    return " and ".join(held)


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():,.0f}"


def _milliseconds(duration: timedelta) -> int:
    return round(duration.total_seconds() * 1000)
