"""What stands in the outbox: whether it is this program's, who works on it, and what waits for a person."""

from __future__ import annotations

from datetime import timedelta
from importlib.metadata import version
from typing import Final

from worker.doctor.finding import Findings, fine, problem, warning
from worker.doctor.patient import Patient
from worker.errors import SchemaMismatch
from worker.operation import State
from worker.store import deliveries as webhooks
from worker.store import retention as kept
from worker.store import views
from worker.store.connection import SCHEMA_VERSION
from worker.store.migrate import installed
from worker.store.statements import rows
from worker.telling import moment, span

__all__ = [
    "accounts",
    "announcements",
    "claims",
    "conflicts",
    "deliveries",
    "retention",
    "roles",
    "schema",
    "unlogged",
    "unresolved",
    "windows",
    "workers",
]

SOON: Final = timedelta(hours=1)
"""A key that protects no longer than this leaves a person little time."""
LATE: Final = timedelta(minutes=5)
"""A task that the app's broker takes is sent within moments, and one that was put off within two minutes."""
LOOK: Final = 1000
"""How many are counted of what should be few."""


def schema(patient: Patient) -> Findings:
    """Whether the database has the outbox that this program speaks to."""
    try:
        found = installed(patient.conn)
    except SchemaMismatch as error:
        yield problem("schema", str(error), "use another database")
        return
    if found is None:
        yield problem("schema", "the database has no outbox", "ringonce migrate")
    elif found.version == SCHEMA_VERSION:
        yield fine("schema", f"version {found.version}")
    elif found.compatible_from <= SCHEMA_VERSION < found.version:
        yield fine("schema", f"version {found.version}, which works with this ringonce's {SCHEMA_VERSION}")
    else:
        older = found.version < SCHEMA_VERSION
        advice = "ringonce migrate" if older else "install a newer ringonce here"
        yield problem("schema", f"version {found.version}, and this ringonce needs {SCHEMA_VERSION}", advice)


def roles(patient: Patient) -> Findings:
    """Which of the outbox's roles this user has."""
    [me] = rows(patient.conn, "doctor_me")
    worn = [name for name, wears in me.items() if name.startswith("outbox_") and wears]
    if worn:
        yield fine("roles", f"{me['name']} has {', '.join(worn)}")
    else:
        advice = f"grant outbox_reader to {me['name']}, or what it is to do"
        yield problem("roles", f"{me['name']} has no role of the outbox", advice)


def unlogged(patient: Patient) -> Findings:
    """Whether a crash would empty a table of the outbox."""
    found = [(each["kind"], each["name"]) for each in rows(patient.conn, "doctor_unlogged")]
    for kind, name in found:
        yield problem(
            "unlogged tables",
            f"outbox.{name} is unlogged: a crash empties it",
            f"alter {kind} outbox.{name} set logged",
        )
    if not found:
        yield fine("unlogged tables", "none")


def claims(patient: Patient) -> Findings:
    """Whether anything is claimed at all."""
    shut = views.history(patient.conn).shut
    if shut is None:
        yield fine("claims", "open")
    else:
        advice = "deploy/RUNBOOK.md, then ringonce history adopt or confirm"
        yield problem("claims", f"shut, nothing is sent: {shut}", advice)


def workers(patient: Patient) -> Findings:
    """Whether anybody works, and with which versions."""
    found = views.workers(patient.conn)
    count, slot_count = views.strength(found)
    ours = version("ringonce")
    if not count:
        work = patient.work()
        say = problem if work else warning
        waiting = "" if work is None else f", and {work.total():,} operations are not final"
        yield say("workers", f"none is alive{waiting}", "ringonce worker")
        return
    others = sorted({each.version for each in found if each.alive} - {ours})
    told = f"{count} alive, {slot_count} slots"
    if others:
        yield warning(
            "workers", f"{told}, of version {', '.join(others)}; this is {ours}", "bring all to one version"
        )
    else:
        yield fine("workers", f"{told}, of version {ours}")


def accounts(patient: Patient) -> Findings:
    """Whether a person, the API or doubt has stopped an account."""
    stops = [stop for account in patient.accounts for stop in account.stops]
    for stop in stops:
        where = f" at {stop.endpoint}" if stop.endpoint is not None else ""
        resume = f"ringonce resume {stop.account} --reason 'put right'"
        yield warning(
            "accounts",
            f"{stop.account} is {stop.how}{where}: {stop.reason}",
            f"once it is put right: {resume}"
            if stop.until is None
            else f"it goes on by itself once the API is well; else: {resume}",
        )
    if not patient.accounts:
        yield warning("accounts", "there is none", "ringonce account set default --app-id ...")
    elif not stops:
        yield fine("accounts", f"{len(patient.accounts)}, none is stopped")


def unresolved(patient: Patient) -> Findings:
    """Whether something waits for a person."""
    count = sum(each.count for each in patient.counts if each.state is State.UNRESOLVED)
    if count:
        yield warning("unresolved", f"{count:,} may have been executed", "ringonce unresolved, then resolve")
    else:
        yield fine("unresolved", "none")


def announcements(patient: Patient) -> Findings:
    """Whether apps are told that their operations are final."""
    waiting = views.count_announcements(patient.conn)
    if waiting.oldest_age < LATE:
        yield fine("on_done", f"{waiting.count:,} tasks are on their way" if waiting.count else "none waits")
        return
    if waiting.tried:
        advice = (
            f"see whether the app's broker runs and has the queue {patient.settings.on_done_queue};"
            " the workers' event announce_failed says why it takes none"
        )
    else:
        advice = "set RINGONCE_ON_DONE_BROKER_URL for every worker, and restart it"
    found = f"{waiting.count:,} tasks wait for the app's broker, the oldest for {span(waiting.oldest_age)}"
    yield warning("on_done", found, advice)


def windows(patient: Patient) -> Findings:
    """Whether keys are about to expire for operations that are still in doubt."""
    found = views.keys_expiring(patient.conn, limit=LOOK, within=SOON)
    if found:
        yield warning(
            "key windows",
            f"{_count(len(found))} in doubt have a key that protects for less than an hour",
            "ringonce key-expiring; see why they do not get through",
        )
    else:
        yield fine("key windows", "none closes within an hour")


def conflicts(patient: Patient) -> Findings:
    """Whether the API has executed something twice."""
    found = views.conflicts(patient.conn, limit=LOOK)
    if found:
        advice = "ringonce conflict, and ringonce certificate for the provider"
        yield problem(
            "conflicts", f"{_count(len(found))} prove that the API did not keep its promise", advice
        )
    else:
        yield fine("conflicts", "none")


def retention(patient: Patient) -> Findings:
    """Whether what is old enough goes: no sooner than keys expire, and perhaps not before it was exported."""
    keep = patient.settings.retention
    longest = max((each.key_ttl for each in views.endpoints(patient.conn)), default=timedelta(0))
    rule = kept.rule(patient.conn)
    exported_at = rule.exported_until
    if keep <= longest:
        found = (
            f"keys live for up to {span(longest)}, and RINGONCE_RETENTION_DAYS is {span(keep)}: nothing goes"
        )
        yield problem("retention", found, "set it longer than every key_ttl, for every worker")
    elif rule.only_exported and (exported_at is None or rule.seen_at - exported_at > keep):
        ended = "there was no export" if exported_at is None else f"exports end at {moment(exported_at)}"
        advice = "ringonce export, or ringonce retention --also-unexported"
        yield warning("retention", f"nothing goes that was not exported, and {ended}", advice)
    else:
        yield fine(
            "retention", f"scrubbed after {span(keep)}, deleted after {span(patient.settings.purge_after)}"
        )


def deliveries(patient: Patient) -> Findings:
    """Whether what the API accepted was dispatched, as far as webhooks tell."""
    sources = [each for each in webhooks.sources(patient.conn) if each.due_within is not None]
    missed = [each for each in sources if each.undelivered_count]
    silent = [each for each in sources if each.first_at is None]
    for each in missed:
        yield warning(
            "deliveries",
            f"{each.undelivered_count:,} of {each.account} at {each.endpoint} were accepted,"
            " and no webhook tells of them",
            "ringonce undelivered; deploy/RUNBOOK.md, RingonceUndelivered",
        )
    for each in silent:
        yield warning(
            "deliveries",
            f"no webhook of {each.account} at {each.endpoint} has come yet, so none is missed",
            "see whether the API is told the receiver's address",
        )
    [troubled] = rows(patient.conn, "doctor_webhooks")
    if troubled["count"]:
        yield warning(
            "deliveries",
            f"{_count(troubled['count'])} webhooks of the last week could not be made use of",
            "see outbox.webhook.problem; deploy/RUNBOOK.md, RingonceUndelivered",
        )
    if not missed and not silent and not troubled["count"]:
        yield fine(
            "deliveries", f"{len(sources)} watched, no webhook is missing" if sources else "none is watched"
        )


def _count(number: int) -> str:
    return f"{number:,} or more" if number == LOOK else f"{number:,}"
