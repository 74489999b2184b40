-- Notes batches that the claims of this transaction have skipped without booking them, and those that were found and can't
-- be booked. It comes after find.sql, which has noted these as found.
-- $1 shard, $2 producers, $3 the first and $4 the last sequences of ranges, $5 reasons, $6 whether it is one batch whose bytes are
-- in quarantine
INSERT INTO spendflush.lost_batches (producer, shard, first_sequence, last_sequence, reason, quarantined)
SELECT u.producer, $1::smallint, u.first, u.last, u.reason, u.quarantined
FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::text[], $6::boolean[]) AS u (producer, first, last, reason, quarantined)
ORDER BY u.producer, u.first
-- A repetition of a flush that was committed is fenced by its claims, not by this.
ON CONFLICT (producer, shard, first_sequence) DO UPDATE SET
    last_sequence = excluded.last_sequence, reason = excluded.reason, quarantined = excluded.quarantined, noticed_at = now(), found_at = NULL
