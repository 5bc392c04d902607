"""The steps of ``deploy/migrations`` may be taken while a fleet runs; a file that is no step is refused."""

from __future__ import annotations

import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from tests.documents import ROOT
from tests.online_safety import dangers, never_validated
from tests.releases import RELEASES
from tests.steps import FIRST, PRESENT, step_file
from worker.errors import SchemaMismatch
from worker.store.connection import SCHEMA_VERSION
from worker.store.steps import Step, find_steps, read_steps, statements

RELEASED: Final = {
    "0.1.0-1": "bcb2c5700560876ebfed37fe9868f55f5882391d8a99d932c7e689aa339aa09d",  # of commit 1a0e3cc
}
"""SHA-256 of the schema of each release: ``git show COMMIT:schema.sql | sha256sum``."""
INDEX = "create index concurrently if not exists operation_by_x on outbox.operation (x);"


@pytest.mark.parametrize("step", PRESENT, ids=str)
def test_every_step_is_safe_under_a_live_fleet(step: Step) -> None:
    assert dangers(step) == []


def test_every_constraint_that_is_added_unchecked_is_checked_later() -> None:
    assert never_validated(PRESENT) == set()


def test_what_is_kept_of_a_release_has_the_schema_that_people_were_given() -> None:
    assert {str(each): sha256(each.schema.encode()).hexdigest() for each in RELEASES} == RELEASED


def test_the_last_step_leads_to_the_version_that_workers_need() -> None:
    assert PRESENT[-1].number == SCHEMA_VERSION


def test_no_step_works_again_with_workers_that_an_earlier_one_broke() -> None:
    assert [each.workers_from for each in PRESENT] == sorted(each.workers_from for each in PRESENT)


def only(folder: Path) -> Step:
    [step] = read_steps(folder)
    return step


@pytest.mark.parametrize(
    "block",
    [
        "create index operation_by_x on outbox.operation (x);",
        "create unique index on outbox.attempt (x);",
        "create index concurrently if not exists operation_by_x on outbox.operation (x);",
        "drop index outbox.operation_of_provider;",
        "alter table outbox.operation add column x integer not null;",
        "alter table outbox.operation add column x timestamptz not null default clock_timestamp();",
        "alter table outbox.operation add column x uuid default gen_random_uuid();",
        "alter table outbox.operation add column x bigint generated always as identity;",
        "alter table outbox.operation add column x integer generated always as (id + 1) stored;",
        "alter table outbox.operation add column x integer check (x > 0);",
        "alter table outbox.operation add column x bigint references outbox.operation (id);",
        "alter table outbox.operation add column y integer, alter column id type numeric;",
        "ALTER TABLE ONLY outbox.account\n    ALTER name SET DATA TYPE varchar(63);",
        "alter table outbox.operation alter column provider_id set not null;",
        "alter table outbox.operation add constraint x check (provider_id <> 'a, b'), add column y integer;",
        "alter table outbox.operation add unique (provider_id);",
        "alter table outbox.operation validate constraint x;",
        "alter table outbox.operation set unlogged;",
        "alter table outbox.operation rename column lane to line;",
        "alter table outbox.operation drop column lane;",
        "alter type outbox.state rename value 'failed' to 'refused';",
        "drop function outbox.enqueue_many;",
        "drop function outbox.x; create function outbox.x() returns text return null;",
        "drop function outbox.x(int); create function outbox.x(y text) returns text return y;",
        "drop function outbox.x(int, int); create function outbox.x(y int) returns int return y;",
        "drop function outbox.x(int); create function outbox.x(y int, z int) returns int return z;",
        "drop view outbox.status; create view outbox.stats as select 1 as x;",
        "update outbox.operation set lane = '';",
        "delete from outbox.attempt where late;",
        "with old as (select id from outbox.operation) delete from outbox.worker using old;",
        "insert into outbox.finished_count select account, endpoint, state, 1 from outbox.operation;",
        "lock table outbox.worker;",
        "lock table outbox.worker in access exclusive mode;",
        "lock table outbox.operation in share mode;",
        "create table outbox.x (); lock table outbox.operation in access exclusive mode;",
        "truncate outbox.finished_count;",
        "set local lock_timeout = '1h';",
        "do $$ begin if true then update outbox.operation set lane = ''; end if; end $$;",
        "do $do$ begin create index on outbox.operation (lane); end $do$;",
    ],
)
def test_what_would_hold_up_a_fleet_or_break_its_workers_is_found(tmp_path: Path, block: str) -> None:
    step_file(tmp_path, FIRST, block, locks="operation (access exclusive)")
    assert len(dangers(only(tmp_path))) == 1


@pytest.mark.parametrize(
    "outside",
    [
        "create table if not exists outbox.x (id integer);",
        "drop index concurrently outbox.operation_of_provider;",
        "alter table outbox.operation add column if not exists x integer;",
        "update outbox.operation set lane = '';",
    ],
)
def test_what_cannot_be_repeated_is_not_taken_out_of_the_transaction(tmp_path: Path, outside: str) -> None:
    step_file(tmp_path, FIRST, "", outside=outside)
    assert len(dangers(only(tmp_path))) == 1


@pytest.mark.parametrize(
    "block",
    [
        "create table outbox.x (id int primary key, y text check (y <> '')); create index on outbox.x (y)",
        "alter table outbox.operation add column x integer not null default 0, add column y text;",
        "alter table outbox.operation add column x interval not null default '00:00:30'::interval;",
        "alter table outbox.operation add constraint x check (id > 0) not valid;",
        "alter table outbox.operation drop constraint operation_is_finished_when_final;",
        "alter table outbox.endpoint add column x integer check (x > 0); update outbox.endpoint set x = 1;",
        (
            "drop function outbox.x(numeric(9, 2), text); create function outbox.x(\n"
            "    y numeric(9, 2), z text, more text default 'a, b', out w int) language sql return 1;"
        ),
        (
            "lock table outbox.operation, outbox.attempt in access exclusive mode;"
            " lock outbox.worker in share mode; alter table outbox.operation add column x integer;"
        ),
        (
            "create or replace function outbox.x() returns void language plpgsql as $$ begin\n"
            " update outbox.operation set lane = ''; commit; -- it's its own affair\nend $$;"
        ),
        "comment on table outbox.operation is 'drop table outbox.operation; /* -- '; -- ; $$",
        "alter type outbox.state add value 'held'; grant select on outbox.status to outbox_producer;",
    ],
)
def test_what_takes_no_time_and_takes_nothing_away_is_let_through(tmp_path: Path, block: str) -> None:
    locks = "operation (access exclusive), attempt (access exclusive), worker (share)"
    step_file(tmp_path, FIRST, block, locks=locks)
    assert dangers(only(tmp_path)) == []


def test_what_takes_something_away_says_that_older_workers_must_be_gone(tmp_path: Path) -> None:
    step_file(tmp_path, FIRST, "alter table outbox.operation drop column lane;", workers_from=FIRST)
    assert dangers(only(tmp_path)) == []


def test_what_is_repeatable_may_stand_outside(tmp_path: Path) -> None:
    outside = f"{INDEX}\nalter table outbox.operation validate constraint x;\ncall outbox.fill_x(1000);"
    step_file(tmp_path, FIRST, "", outside=outside, indexes=["operation_by_x"])
    assert dangers(only(tmp_path)) == []


def test_a_constraint_that_nobody_checks_is_found(tmp_path: Path) -> None:
    add = "alter table outbox.operation add constraint x check (id > 0) not valid;"
    step_file(tmp_path, FIRST, add)
    assert never_validated(read_steps(tmp_path)) == {"x"}
    step_file(tmp_path, FIRST + 1, "", outside="alter table outbox.operation validate constraint x;")
    assert never_validated(read_steps(tmp_path)) == set()


@pytest.mark.parametrize(
    ("theirs", "ours", "complaint"),
    [
        ("workers from: 1\n", "workers\n", "has no .Works with workers from"),
        ("workers from: 1\n", "workers from: all\n", "has no .Works with workers from"),
        ("workers from: 1\n", "workers from: 99999\n", "has no .Works with workers from"),
        ("-- Locks: nothing that was there before", "", "does not say what it brings and locks"),
        (f"values ({FIRST},", f"values ({FIRST + 1},", f"does not write version {FIRST}"),
        ("commit;", "", "does not commit"),
        ("begin;", f"{INDEX}\nbegin;", "name what it makes outside of a transaction: operation_by_x"),
    ],
)
def test_a_file_of_another_form_is_no_step(tmp_path: Path, theirs: str, ours: str, complaint: str) -> None:
    step_file(tmp_path, FIRST, "select 1;")
    [file] = tmp_path.iterdir()
    assert theirs in file.read_text()
    file.write_text(file.read_text().replace(theirs, ours))
    with pytest.raises(SchemaMismatch, match=complaint):
        read_steps(tmp_path)


def test_a_number_stands_for_one_step(tmp_path: Path) -> None:
    step_file(tmp_path, FIRST, "select 1;")
    [file] = tmp_path.iterdir()
    (tmp_path / f"{FIRST:04}_again.sql").write_text(file.read_text())
    with pytest.raises(SchemaMismatch, match="two migrations have one number"):
        read_steps(tmp_path)
    file.rename(tmp_path / "made_up.sql")
    with pytest.raises(SchemaMismatch, match="is not called NNNN_name"):
        read_steps(tmp_path)


def test_statements_are_told_apart_as_postgres_does() -> None:
    text = """
        -- not; this
        select ';', "a;b" /* nor; this */ ; select $$;$$, $x$ $$ ; $x$ -- end
        ; insert into t values (-1, 2 / 1)
    """
    assert list(statements(text)) == [
        """select ';', "a;b\"""",
        "select $$;$$, $x$ $$ ; $x$",
        "insert into t values (-1, 2 / 1)",
    ]


def test_a_transaction_begins_by_taking_its_locks(tmp_path: Path) -> None:
    step_file(tmp_path, FIRST, "LOCK TABLE a;\nlock b, c;\nselect 1;\nlock d;")
    [part] = only(tmp_path).parts
    assert part.locking == "begin;\nLOCK TABLE a;\nlock b, c"
    assert part.sql.removeprefix(part.locking).startswith(";\nselect 1;\nlock d;\ninsert into")
    step_file(tmp_path, FIRST, "select 1;")
    assert only(tmp_path).parts[0].locking == "begin"


def test_a_wheel_brings_the_steps_as_it_brings_the_schema() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    brought = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert brought == {"schema.sql": "worker/schema.sql", "deploy/migrations": "worker/migrations"}


def test_the_steps_are_the_packages_own_if_there_are_some(tmp_path: Path) -> None:
    package, checkout = tmp_path / "package", tmp_path / "checkout"
    (package / "migrations").mkdir(parents=True)
    (checkout / "deploy" / "migrations").mkdir(parents=True)
    assert find_steps(package, checkout) == package / "migrations"
    assert find_steps(tmp_path, checkout) == checkout / "deploy" / "migrations"
    with pytest.raises(SchemaMismatch, match="install ringonce anew"):
        find_steps(tmp_path, tmp_path)
