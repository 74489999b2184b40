-- Adds to the marks of producers what was taken out of the batches that this transaction claims or has found.
-- $1 shard, $2 producers in order, $3 updates and $4 amounts of duplicates, $5 and $6 of conflicts
UPDATE spendflush.producers AS p SET
    duplicate_updates = p.duplicate_updates + u.duplicate_updates,
    duplicate_amount = p.duplicate_amount + u.duplicate_amount,
    conflict_updates = p.conflict_updates + u.conflict_updates,
    conflict_amount = p.conflict_amount + u.conflict_amount
FROM unnest($2::uuid[], $3::bigint[], $4::numeric[], $5::bigint[], $6::numeric[])
    AS u (producer, duplicate_updates, duplicate_amount, conflict_updates, conflict_amount)
WHERE p.producer = u.producer AND p.shard = $1::smallint
