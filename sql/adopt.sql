-- Books a batch, whose producer's mark may have been cleaned up, on the nil producer. If it was lost, it is found.
-- $1 shard, $2 updates, $3 amount, $4 producer, $5 sequence
WITH found AS (
    UPDATE spendflush.lost_batches
    SET found_at = now()
    WHERE shard = $1::smallint AND producer = $4::uuid AND sequence = $5::bigint AND found_at IS NULL
    RETURNING shard
)
INSERT INTO spendflush.producers AS p (producer, shard, shards, first_seen, claimed_from, sequence, claims, seal, whole,
    updates, seen_at, amount, sealed_updates, sealed_amount)
SELECT '00000000-0000-0000-0000-000000000000', $1::smallint, 1, now(), 1, 0, 1, 0, true, $2::bigint, '-infinity', $3::numeric,
    $2::bigint * (1 - n), $3::numeric * (1 - n)
FROM (SELECT count(*) AS n FROM found) AS was_lost
ON CONFLICT (producer, shard) DO UPDATE SET
    updates = p.updates + excluded.updates,
    amount = p.amount + excluded.amount,
    sealed_updates = p.sealed_updates + excluded.sealed_updates,
    sealed_amount = p.sealed_amount + excluded.sealed_amount
