-- By which entry a batch was applied by hand.
-- $1 shard, $2 producer, $3 sequence, $4 digest
SELECT entry, applied_at FROM spendflush.applied_by_hand
WHERE shard = $1::smallint AND producer = $2::uuid AND sequence = $3::bigint AND digest = $4::uuid
