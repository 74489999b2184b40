-- Notes batches that the claims of this transaction have passed as lost.
-- $1 shard, $2 producers, $3 sequences, $4 reasons
INSERT INTO spendflush.lost_batches (producer, shard, sequence, reason)
SELECT u.producer, $1::smallint, u.sequence, u.reason
FROM unnest($2::uuid[], $3::bigint[], $4::text[]) AS u (producer, sequence, reason)
ORDER BY u.producer, u.sequence
-- A repetition of a flush that was committed is fenced by its claims, not by this.
ON CONFLICT (producer, shard, sequence) DO UPDATE SET reason = excluded.reason, noticed_at = now(), found_at = NULL
