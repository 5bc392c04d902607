-- Who may log in, beside the owner: a worker that can do what workers do, a reader, and who hands in webhooks. For psql, as a user who may make roles;
-- the image of Postgres runs it once, when it has made the database. The outbox need not be there yet: it makes only those
-- of its roles that are missing.

\set worker_password `cat /run/secrets/worker_password`
\set reader_password `cat /run/secrets/reader_password`
\set receiver_password `cat /run/secrets/receiver_password`

create role outbox_worker nologin;
create role outbox_reader nologin;
create role outbox_receiver nologin;
create role ringonce_worker login password :'worker_password' in role outbox_worker;
create role ringonce_reader login password :'reader_password' in role outbox_reader, pg_read_all_stats;
create role ringonce_receiver login password :'receiver_password' in role outbox_receiver;
