-- Returns the application_name of the session that holds the lock, in no row if nobody does.
--
-- $1 number of the lock (bigint)
--
-- pg_stat_get_activity is what pg_stat_activity is made of. The view looks at all sessions and joins the names of their
-- databases and users, which takes several times as long; everybody who is refused a lock asks this.
SELECT coalesce((SELECT a.application_name FROM pg_catalog.pg_stat_get_activity(l.pid) AS a), '')
FROM pg_catalog.pg_locks AS l
WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory'
  AND l.granted
  AND l.database OPERATOR(pg_catalog.=) (SELECT oid FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
  AND l.classid OPERATOR(pg_catalog.=)
      (($1::bigint OPERATOR(pg_catalog.>>) 32) OPERATOR(pg_catalog.&) 4294967295)::bigint::oid
  AND l.objid OPERATOR(pg_catalog.=) ($1::bigint OPERATOR(pg_catalog.&) 4294967295)::oid
  AND l.objsubid OPERATOR(pg_catalog.=) 1
