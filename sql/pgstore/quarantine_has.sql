-- Whether the quarantine has each of these batches, settled or not.
-- $1 shard, $2 digests of their bytes
SELECT EXISTS (
    SELECT FROM spendflush.quarantine q WHERE q.kind = 'batch' AND q.shard = $1::smallint AND q.digest = u.digest)
FROM unnest($2::bytea[]) WITH ORDINALITY AS u (digest, place)
ORDER BY u.place
