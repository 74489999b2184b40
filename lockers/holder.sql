-- Returns the application_name of the session that holds the lock, in no row if nobody does.
--
-- $1 number of the lock (bigint)
--
-- pg_stat_get_activity is what pg_stat_activity is made of. The view looks at all sessions and joins the names of their
-- databases and users, which takes several times as long; everybody who is refused a lock asks this.
SELECT coalesce((SELECT a.application_name FROM pg_catalog.pg_stat_get_activity(l.pid) AS a), '')
FROM pg_catalog.pg_locks AS l
WHERE l.locktype = 'advisory'
  AND l.granted
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  AND l.classid = (($1::bigint >> 32) & 4294967295)::bigint::oid
  AND l.objid = ($1::bigint & 4294967295)::oid
  AND l.objsubid = 1
