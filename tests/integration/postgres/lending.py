"""What a pooler's sessions look like after they were lent."""

from __future__ import annotations

import psycopg

from tests.postgres import Database
from tests.waiting import until

__all__ = ["UNTOUCHED", "left_behind"]

LEFT = """
    select pg_backend_pid(), current_setting('statement_timeout'), current_setting('lock_timeout'),
           current_setting('idle_session_timeout'), current_setting('role'),
           current_setting('outbox.acted_for', true),
           (select count(*) from pg_listening_channels()), (select count(*) from pg_prepared_statements),
           (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())
"""
CLEAN = ("0", "0", "0", "none")


def left_behind(pooler: Database) -> set[tuple[object, ...]]:
    """What is found in the sessions that the pooler lends; each is met, for they are lent in turn."""
    with psycopg.connect(pooler.url, autocommit=True, prepare_threshold=None) as conn:
        found: dict[int, tuple[object, ...]] = {}

        def has_met_some() -> bool:
            found.update({row[0]: row for row in conn.execute(LEFT).fetchall()})
            return len(found) > 1

        until(has_met_some)
        for _ in range(8):
            has_met_some()
    return {(*each[1:5], each[5] or "", *each[6:]) for each in found.values()}


UNTOUCHED = {(*CLEAN, "", 0, 0, 0)}
