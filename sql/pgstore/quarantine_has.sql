-- Which batches the quarantine has, settled or not.
-- $1 shard, $2 digests of their bytes
SELECT digest
FROM spendflush.quarantine
WHERE kind = 'batch' AND shard = $1::smallint AND digest = ANY ($2::bytea[])
