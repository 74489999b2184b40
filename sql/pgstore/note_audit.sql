-- Notes the result of an audit, unless that of a later one is known.
-- $1 as of, $2 ok, $3 seconds that it took, $4 names of the checks that failed
INSERT INTO spendflush.last_audit AS l (claimed_at, as_of, ok, seconds, failed) VALUES (now(), $1, $2, $3, $4)
ON CONFLICT (single) DO UPDATE SET claimed_at = greatest(l.claimed_at, excluded.claimed_at),
    as_of = excluded.as_of, ok = excluded.ok, seconds = excluded.seconds, failed = excluded.failed
WHERE l.as_of IS NULL OR l.as_of <= excluded.as_of
