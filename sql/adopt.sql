-- Books a batch, whose producer's mark may have been cleaned up, on the nil producer.
-- $1 shard, $2 updates, $3 amount
INSERT INTO spendflush.producers AS p (producer, shard, shards, first_seen, claimed_from, sequence, claims, seal, whole,
    updates, seen_at, amount, sealed_updates, sealed_amount)
VALUES ('00000000-0000-0000-0000-000000000000', $1::smallint, 1, now(), 1, 0, 1, 0, true, $2::bigint, '-infinity', $3::numeric,
    $2::bigint, $3::numeric)
ON CONFLICT (producer, shard) DO UPDATE SET
    updates = p.updates + excluded.updates,
    amount = p.amount + excluded.amount,
    sealed_updates = p.sealed_updates + excluded.updates,
    sealed_amount = p.sealed_amount + excluded.amount
