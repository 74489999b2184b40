-- Keeps batches that can't be applied, each once. One that was skipped as lost is noted to be kept, but not if another one
-- may have its place: the producer of that one would let go of it. It comes after split.sql, where it may be in a range.
-- $1 shard, $2 reasons, $3 bytes; $4 producers, $5 sequences, $6 updates and $7 amounts, where they could be read;
-- $8 whether another batch has their place
WITH kept AS (
    INSERT INTO spendflush.quarantine (kind, shard, reason, digest, bytes, producer, sequence, updates, spend, unclaimed)
    SELECT 'batch', $1::smallint, u.reason, sha256(u.bytes), u.bytes, u.producer, u.sequence, u.updates, coalesce(u.amount, 0),
        u.unclaimed
    FROM unnest($2::text[], $3::bytea[], $4::uuid[], $5::bigint[], $6::bigint[], $7::numeric[], $8::boolean[])
        AS u (reason, bytes, producer, sequence, updates, amount, unclaimed)
    ON CONFLICT (shard, digest) WHERE kind = 'batch' DO NOTHING
)
UPDATE spendflush.lost_batches l SET quarantined = true
FROM unnest($4::uuid[], $5::bigint[], $8::boolean[]) AS u (producer, sequence, unclaimed)
WHERE NOT u.unclaimed AND l.producer = u.producer AND l.shard = $1::smallint AND l.first_sequence = u.sequence
    AND l.last_sequence = u.sequence AND l.found_at IS NULL AND NOT l.quarantined
