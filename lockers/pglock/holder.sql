-- Returns of the session that holds the lock: its process, its application_name, its role, and whether that role may use
-- the schema of spendflush. No row if nobody holds it.
--
-- $1 number of the lock
--
-- pg_stat_get_activity is what pg_stat_activity is made of. The view looks at all sessions and joins the names of their
-- databases and users, which takes several times as long; everybody who is refused a lock asks this.
SELECT l.pid, coalesce(a.application_name, ''), coalesce(pg_get_userbyid(a.usesysid)::text, ''),
    coalesce(has_schema_privilege(a.usesysid, 'spendflush', 'USAGE'), true)
FROM pg_locks AS l
LEFT JOIN LATERAL pg_stat_get_activity(l.pid) AS a ON true
WHERE l.locktype = 'advisory'
  AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.classid = (($1::bigint >> 32) & 4294967295)::bigint::oid
  AND l.objid = ($1::bigint & 4294967295)::oid
  AND l.objsubid = 1
