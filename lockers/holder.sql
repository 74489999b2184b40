-- Returns the application_name of the session that holds the lock, in no row if nobody does.
--
-- $1 number of the lock (bigint)
SELECT coalesce(a.application_name, '')
FROM pg_locks AS l
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory'
  AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.classid = (($1::bigint >> 32) & 4294967295)::bigint::oid
  AND l.objid = ($1::bigint & 4294967295)::oid
  AND l.objsubid = 1
