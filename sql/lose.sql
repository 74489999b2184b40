-- Notes batches that the claims of this transaction have passed without booking them, and those that were found and can't
-- be booked. It comes after find.sql, which has noted these as found.
-- $1 shard, $2 producers, $3 sequences, $4 reasons, $5 whether their bytes are in quarantine
INSERT INTO spendflush.lost_batches (producer, shard, sequence, reason, quarantined)
SELECT u.producer, $1::smallint, u.sequence, u.reason, u.quarantined
FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::boolean[]) AS u (producer, sequence, reason, quarantined)
ORDER BY u.producer, u.sequence
-- A repetition of a flush that was committed is fenced by its claims, not by this.
ON CONFLICT (producer, shard, sequence) DO UPDATE SET
    reason = excluded.reason, quarantined = excluded.quarantined, noticed_at = now(), found_at = NULL
