-- Ends a session before its time, and forgets those that have ended by themselves.
-- $1 its id, $2 when it would have ended
WITH old AS (DELETE FROM spendflush.signed_out WHERE ends_at < now())
INSERT INTO spendflush.signed_out (session, ends_at) VALUES ($1::uuid, $2::timestamptz)
ON CONFLICT (session) DO NOTHING
