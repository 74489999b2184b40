-- Returns a row if the next audit is due and is the caller's to make.
-- $1 how long after the last one it is due
INSERT INTO spendflush.last_audit AS l (claimed_at) VALUES (now())
ON CONFLICT (single) DO UPDATE SET claimed_at = excluded.claimed_at WHERE l.claimed_at <= excluded.claimed_at - $1::interval
RETURNING true
