-- For whom synchronous_commit is off by a setting of a role or a database, of those who may use this outbox.
--
-- Run by: `ringonce doctor`. Index: none, a row for each role and database that has settings. Locks: nothing.
select r.rolname::text as role, d.datname::text as database
from pg_db_role_setting s
left join pg_roles r on r.oid = s.setrole
left join pg_database d on d.oid = s.setdatabase
where (s.setdatabase = 0 or d.datname = current_database())
  and exists (select from unnest(s.setconfig) as setting (text)
               where lower(setting.text) in ('synchronous_commit=off', 'synchronous_commit=false', 'synchronous_commit=no',
                                             'synchronous_commit=0'))
  and (s.setrole = 0 or coalesce(has_schema_privilege(s.setrole, to_regnamespace('outbox')::oid, 'usage'), true))
order by r.rolname, d.datname
