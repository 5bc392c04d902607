"""The schema as a text for its readers: explained, named as promised, in the same words as in Python."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

import psycopg
import pytest

from tests.integration.sql.plain_sql import rows, value
from tests.postgres import SCHEMA
from worker.operation import FINAL_STATES, Phase, State, Verdict
from worker.store.connection import SCHEMA_VERSION

WITHOUT_COMMENT = """
    select 'schema' as what, nspname::text as name from pg_namespace
     where nspname = 'outbox' and obj_description(oid, 'pg_namespace') is null
    union all
    select 'table or view', relname from pg_class
     where relnamespace = 'outbox'::regnamespace and relkind in ('r', 'v')
       and obj_description(oid, 'pg_class') is null
    union all
    select 'column', format('%I.%I', c.relname, a.attname)
      from pg_class c join pg_attribute a on a.attrelid = c.oid
     where c.relnamespace = 'outbox'::regnamespace and c.relkind in ('r', 'v')
       and a.attnum > 0 and not a.attisdropped and col_description(c.oid, a.attnum) is null
    union all
    select 'type', t.typname from pg_type t left join pg_class c on c.oid = t.typrelid
     where t.typnamespace = 'outbox'::regnamespace and t.typelem = 0 and (c.oid is null or c.relkind = 'c')
       and obj_description(t.oid, 'pg_type') is null
    union all
    select 'function', p.oid::regprocedure::text from pg_proc p
     where p.pronamespace = 'outbox'::regnamespace and obj_description(p.oid, 'pg_proc') is null
"""


def names(conn: psycopg.Connection, query: Any) -> set[str]:  # noqa: ANN401
    return {only for found in rows(conn, query) for only in found.values()}


def test_everything_in_the_schema_is_explained(conn: psycopg.Connection) -> None:
    assert rows(conn, WITHOUT_COMMENT) == []


def test_the_search_for_what_is_not_explained_finds_it(conn: psycopg.Connection) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute("create table outbox.odd (odd integer); create view outbox.odd_view as select 1 as odd")
        conn.execute(
            "create type outbox.odd_type as (odd integer); create type outbox.odd_enum as enum ('odd')"
        )
        conn.execute("create function outbox.odd_function() returns integer language sql return 1")
        found = {(each["what"], each["name"]) for each in rows(conn, WITHOUT_COMMENT)}
    assert found == {
        ("table or view", "odd"), ("table or view", "odd_view"), ("column", "odd.odd"),
        ("column", "odd_view.odd"), ("type", "odd_type"),
        ("type", "odd_enum"), ("function", "outbox.odd_function()"),
    }  # fmt: skip


@pytest.mark.parametrize("words", [State, Verdict, Phase], ids=lambda words: words.__name__)
def test_the_enum_types_have_the_words_of_python(conn: psycopg.Connection, words: type[StrEnum]) -> None:
    query = (
        "select enumlabel from pg_enum where enumtypid = to_regtype('outbox.' || %s) order by enumsortorder"
    )
    assert [each["enumlabel"] for each in rows(conn, query, [words.__name__.lower()])] == [
        str(word) for word in words
    ]


def test_what_is_final_has_a_finished_at_in_sql_and_is_final_in_python(conn: psycopg.Connection) -> None:
    name = "operation_is_finished_when_final"
    rule = value(conn, "select pg_get_constraintdef(oid) from pg_constraint where conname = %s", [name])
    assert set(re.findall(r"'(\w+)'::outbox\.state", rule)) == {str(state) for state in FINAL_STATES}


def test_each_index_that_the_schema_names_is_there_for_its_reader(conn: psycopg.Connection) -> None:
    named = set(
        re.findall(r"^create (?:unique )?index (\w+)", SCHEMA.read_text(encoding="utf-8"), re.MULTILINE)
    )
    there = names(conn, "select c.relname from pg_class c join pg_index i on i.indexrelid = c.oid"
                        " where c.relnamespace = 'outbox'::regnamespace and i.indisvalid")  # fmt: skip
    assert (
        {"operation_to_claim", "operation_next_due", "operation_in_flight", "operation_unresolved"}
        <= named
        <= there
    )


def test_every_foreign_key_can_be_checked_by_an_index_of_the_referring_table(
    conn: psycopg.Connection,
) -> None:
    """But for those to rows that are never deleted: actions, and accounts and endpoints in use."""
    query = """
        select conname from pg_constraint k
         where contype = 'f' and confrelid = 'outbox.operation'::regclass
           and not exists (select from pg_index i
                             join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
                            where i.indrelid = k.conrelid and i.indkey[0] = a.attnum
                              and coalesce(pg_get_expr(i.indpred, i.indrelid), '')
                                  in ('', format('(%I IS NOT NULL)', a.attname)))
    """
    assert names(conn, query) == set()


@pytest.mark.parametrize("relation", ["operation", "account", "endpoint", "attempt"])
def test_names_sort_by_their_bytes(conn: psycopg.Connection, relation: str) -> None:
    """The claim's loose index scan rests on one order, and a locale's may change under an index."""
    query = """
        select attname from pg_attribute a join pg_collation c on c.oid = a.attcollation
         where attrelid = to_regclass('outbox.' || %s) and c.collname <> 'C'
           and attname in ('name', 'account', 'app_id', 'endpoint', 'idempotency_key', 'lane')
    """
    assert rows(conn, query, [relation]) == []


def test_the_schema_may_be_loaded_where_its_roles_exist_already_and_only_once(
    conn: psycopg.Connection,
) -> None:
    with pytest.raises(psycopg.errors.DuplicateSchema):
        conn.execute(SCHEMA.read_bytes())
    conn.execute("rollback")
    assert value(conn, "select max(version) from outbox.schema_version") == SCHEMA_VERSION
