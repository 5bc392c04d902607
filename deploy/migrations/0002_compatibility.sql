-- Each version says which workers work with it, so that old ones and new ones may run side by side.
--
-- Works with workers from: 1
-- Locks: schema_version (access exclusive)

begin;

lock table outbox.schema_version in access exclusive mode;

alter table outbox.schema_version
    add column compatible_from integer
        constraint schema_version_is_compatible_with_the_past check (compatible_from between 1 and version);
comment on table outbox.schema_version is
    'The versions of this schema. A worker refuses to start on an older one than its own, and on a newer one unless that is compatible with it';
comment on column outbox.schema_version.compatible_from is
    'The oldest version whose workers work with this one as well; null: none but its own';

insert into outbox.schema_version (version, compatible_from) values (2, 1);

commit;
