-- Moves what is in conflict to what is booked, at the mark of its producer, or among what was pruned if that has none.
-- $1 shard, $2 producer, $3 updates, $4 amount
WITH known AS (
    UPDATE spendflush.producers SET
        updates = updates + $3::bigint, amount = amount + $4::numeric,
        conflict_updates = conflict_updates - $3::bigint, conflict_amount = conflict_amount - $4::numeric
    WHERE shard = $1::smallint AND producer = $2::uuid
    RETURNING shard
), pruned AS (
    UPDATE spendflush.pruned_marks SET
        updates = updates + $3::bigint, amount = amount + $4::numeric,
        conflict_updates = conflict_updates - $3::bigint, conflict_amount = conflict_amount - $4::numeric
    WHERE shard = $1::smallint AND NOT EXISTS (SELECT FROM known)
    RETURNING shard
)
SELECT (SELECT count(*) FROM known) + (SELECT count(*) FROM pruned)
