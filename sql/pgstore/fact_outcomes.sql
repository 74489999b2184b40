-- What was taken out of batches, in the order of their sequences.
-- $1 shard, $2 producer, $3 sequences
SELECT sequence, taken FROM spendflush.taken_out
WHERE shard = $1::smallint AND producer = $2::uuid AND sequence = ANY ($3::bigint[])
ORDER BY sequence
