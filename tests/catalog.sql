-- All that Postgres knows of an outbox, a query a kind of thing, each of one column: read by tests/catalogs.py.

-- schema
select format('owner %s, %s, %L', nspowner::regrole, pg_temp.acl(nspacl, 'n', nspowner), obj_description(oid, 'pg_namespace'))
  from pg_namespace where nspname = 'outbox';

-- relation
select format('%s %s: persistence %s, owner %s, options %s, toast %s, method %s, security %s%s, identity %s, partition %s %s, %s, %L',
              c.relkind, c.relname, c.relpersistence, c.relowner::regrole,
              (select string_agg(o, ' ' order by o) from unnest(c.reloptions) as o), t.reloptions, m.amname, c.relrowsecurity,
              c.relforcerowsecurity, c.relreplident, pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid),
              pg_temp.acl(c.relacl, case c.relkind when 'S' then 's' else 'r' end, c.relowner), obj_description(c.oid, 'pg_class'))
  from pg_class c left join pg_class t on t.oid = c.reltoastrelid left join pg_am m on m.oid = c.relam
 where c.relnamespace = 'outbox'::regnamespace;

-- column
select format('%s.%s %s: %s%s, default %s, identity %L, generated %L, collation %s, storage %s %L, statistics %s, options %s, %s, %L',
              c.relname, row_number() over (partition by c.oid order by a.attnum), a.attname, format_type(a.atttypid, a.atttypmod),
              case when a.attnotnull then ' not null' end, pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated,
              nullif(a.attcollation, 0)::regcollation, a.attstorage, a.attcompression, nullif(a.attstattarget, -1), a.attoptions,
              (select string_agg(item::text, ' ' order by item::text) from unnest(a.attacl) as item), col_description(c.oid, a.attnum))
  from pg_class c join pg_attribute a on a.attrelid = c.oid left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
 where c.relnamespace = 'outbox'::regnamespace and a.attnum > 0 and not a.attisdropped;

-- constraint
select format('%s %s %s: %s, valid %s, deferrable %s %s, inherited %s %s, %L', conrelid::regclass, contypid::regtype, conname,
              pg_get_constraintdef(oid), convalidated, condeferrable, condeferred, conislocal, connoinherit,
              obj_description(oid, 'pg_constraint'))
  from pg_constraint where connamespace = 'outbox'::regnamespace;

-- index
select format('%s, valid %s, ready %s, live %s, clustered %s, identity %s', pg_get_indexdef(i.indexrelid), i.indisvalid,
              i.indisready, i.indislive, i.indisclustered, i.indisreplident)
  from pg_index i join pg_class c on c.oid = i.indexrelid where c.relnamespace = 'outbox'::regnamespace;

-- function
select format('%s: owner %s, %s, %L, %s', oid::regprocedure, proowner::regrole, pg_temp.acl(proacl, 'f', proowner),
              obj_description(oid, 'pg_proc'), pg_get_functiondef(oid))
  from pg_proc where pronamespace = 'outbox'::regnamespace and prokind <> 'a';

-- aggregate
select format('%s: %s', oid::regprocedure, pg_temp.acl(proacl, 'f', proowner))
  from pg_proc where pronamespace = 'outbox'::regnamespace and prokind = 'a';

-- trigger
select format('%s, enabled %s, %L', pg_get_triggerdef(t.oid), t.tgenabled, obj_description(t.oid, 'pg_trigger'))
  from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace = 'outbox'::regnamespace and not t.tgisinternal;

-- view
select format('%s: %s', relname, pg_get_viewdef(oid))
  from pg_class where relnamespace = 'outbox'::regnamespace and relkind in ('v', 'm');

-- rule
select format('%s.%s: %s', tablename, rulename, definition) from pg_rules where schemaname = 'outbox';

-- policy
select p::text from pg_policies p where schemaname = 'outbox';

-- type
select format('%s %s: labels %s, of %s, default %L, owner %s, %s, %L', t.typtype, t.typname,
              (select string_agg(e.enumlabel, ' ' order by e.enumsortorder) from pg_enum e where e.enumtypid = t.oid),
              nullif(t.typbasetype, 0)::regtype, t.typdefault, t.typowner::regrole, pg_temp.acl(t.typacl, 'T', t.typowner),
              obj_description(t.oid, 'pg_type'))
  from pg_type t where t.typnamespace = 'outbox'::regnamespace;

-- sequence
select format('%s: %s from %s by %s, %s to %s, cache %s, cycle %s', s.seqrelid::regclass, s.seqtypid::regtype, s.seqstart,
              s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle)
  from pg_sequence s join pg_class c on c.oid = s.seqrelid where c.relnamespace = 'outbox'::regnamespace;

-- inheritance
select format('%s of %s', inhrelid::regclass, inhparent::regclass)
  from pg_inherits i join pg_class c on c.oid = i.inhrelid where c.relnamespace = 'outbox'::regnamespace;

-- statistics
select pg_get_statisticsobjdef(oid) from pg_statistic_ext where stxnamespace = 'outbox'::regnamespace;

-- publication
select format('%s: %s.%s', pubname, schemaname, tablename) from pg_publication_tables;

-- default privilege
select format('%s %s: %s', defaclrole::regrole, defaclobjtype, defaclacl) from pg_default_acl
 where defaclnamespace in (0, 'outbox'::regnamespace);

-- event trigger
select format('%s on %s', evtname, evtevent) from pg_event_trigger;

-- extension
select format('%s %s', extname, extversion) from pg_extension;

-- setting
select format('%s: %s', nullif(setrole, 0)::regrole, setconfig) from pg_db_role_setting
 where setdatabase = (select oid from pg_database where datname = current_database());

-- endpoint
select to_jsonb(e)::text from outbox.endpoint e;

-- version
select format('%s from %s', version, to_jsonb(v) ->> 'compatible_from') from outbox.schema_version v order by version desc limit 1;
