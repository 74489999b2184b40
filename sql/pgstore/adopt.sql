-- Books a batch that can't be claimed under its producer any more, among what was pruned. If it was lost, it is found; but
-- not where the producer has a mark: then what it lost at that place is another batch. It comes after split.sql.
-- $1 shard, $2 updates and $3 amount booked, $4 producer, $5 sequence, $6 updates and $7 amount sealed, $8 updates and $9 amount of
-- duplicates, $10 and $11 of conflicts
WITH found AS (
    UPDATE spendflush.lost_batches
    SET found_at = now()
    WHERE shard = $1::smallint AND producer = $4::uuid AND first_sequence = $5::bigint AND last_sequence = $5::bigint AND found_at IS NULL
        AND NOT EXISTS (SELECT FROM spendflush.producers p WHERE p.producer = $4::uuid AND p.shard = $1::smallint)
    RETURNING shard
)
INSERT INTO spendflush.pruned_marks AS p (shard, marks, horizon, updates, amount, sealed_updates, sealed_amount,
    duplicate_updates, duplicate_amount, conflict_updates, conflict_amount)
SELECT $1::smallint, 0, '-infinity', $2::bigint, $3::numeric, $6::bigint * (1 - n), $7::numeric * (1 - n),
    $8::bigint, $9::numeric, $10::bigint, $11::numeric
FROM (SELECT count(*) AS n FROM found) AS was_lost
ON CONFLICT (shard) DO UPDATE SET
    updates = p.updates + excluded.updates,
    amount = p.amount + excluded.amount,
    sealed_updates = p.sealed_updates + excluded.sealed_updates,
    sealed_amount = p.sealed_amount + excluded.sealed_amount,
    duplicate_updates = p.duplicate_updates + excluded.duplicate_updates,
    duplicate_amount = p.duplicate_amount + excluded.duplicate_amount,
    conflict_updates = p.conflict_updates + excluded.conflict_updates,
    conflict_amount = p.conflict_amount + excluded.conflict_amount
