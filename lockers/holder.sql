-- Who holds an advisory lock of a bigint key in this database.
-- $1 and $2 the key's upper and lower half, $3 prefix of the holders' application names
SELECT CASE WHEN starts_with(a.application_name, $3::text) THEN substr(a.application_name, length($3::text) + 1)
    ELSE coalesce(a.application_name, '') END
FROM pg_locks k
LEFT JOIN pg_stat_activity a ON a.pid = k.pid
WHERE k.locktype = 'advisory' AND k.granted AND k.objsubid = 1
    AND k.classid = $1::bigint::oid AND k.objid = $2::bigint::oid
    AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())
LIMIT 1
