-- Keeps the marks of a living producer from being cleaned up, and sums up under the nil producer those that nobody has
-- moved or tended for too long. A producer that nothing is in the books of gets rows of its own once it is old, unless its
-- marks may be among those that were cleaned up: it must not look as if it were new. Answers how many were cleaned up.
-- $1 producer, $2 the number of its shards, $3 how long a mark may be idle
WITH at AS (
    SELECT now() - $3::interval AS horizon,
        -- Identities are UUIDv7: they begin with the time they were made at, in milliseconds.
        (lpad(to_hex((extract(epoch FROM now() - $3::interval) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid AS oldest,
        (lpad(to_hex((extract(epoch FROM now() - $3::interval / 4) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid AS old
), forgotten AS (
    -- Producers born before this one may have had marks that were cleaned up.
    SELECT (lpad(to_hex((extract(epoch FROM max(seen_at)) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid AS before
    FROM spendflush.producers
    WHERE producer = '00000000-0000-0000-0000-000000000000' AND seen_at > 'epoch'
), tended AS (
    INSERT INTO spendflush.producers AS p (producer, shard, shards, first_seen, claimed_from, sequence, claims, seal, whole,
        updates, seen_at, amount, sealed_updates, sealed_amount)
    SELECT $1::uuid, shard, $2::smallint, now(), 1, 0, 1, 0, true, 0, now(), 0, 0, 0
    FROM at, forgotten, generate_series(0, $2::smallint - 1) AS shard
    WHERE $1::uuid < at.old
        AND (forgotten.before IS NULL OR $1::uuid >= forgotten.before
            OR EXISTS (SELECT FROM spendflush.producers WHERE producer = $1::uuid))
    ORDER BY shard
    ON CONFLICT (producer, shard) DO UPDATE SET seen_at = now()
    WHERE p.seen_at < now() - $3::interval / 4
), gone AS (
    DELETE FROM spendflush.producers p
    USING at
    WHERE p.seen_at < at.horizon AND p.producer < at.oldest AND p.producer NOT IN ($1::uuid, '00000000-0000-0000-0000-000000000000')
    RETURNING p.shard, p.updates, p.amount, p.sealed_updates, p.sealed_amount
), kept AS (
    INSERT INTO spendflush.producers AS p (producer, shard, shards, first_seen, claimed_from, sequence, claims, seal, whole,
        updates, seen_at, amount, sealed_updates, sealed_amount)
    SELECT '00000000-0000-0000-0000-000000000000', shard, 1, now(), 1, count(*), 1, 0, true,
        sum(g.updates), at.horizon, sum(g.amount), sum(g.sealed_updates), sum(g.sealed_amount)
    FROM gone g, at
    GROUP BY shard, at.horizon
    ORDER BY shard
    ON CONFLICT (producer, shard) DO UPDATE SET
        sequence = p.sequence + excluded.sequence,
        updates = p.updates + excluded.updates,
        seen_at = greatest(p.seen_at, excluded.seen_at),
        amount = p.amount + excluded.amount,
        sealed_updates = p.sealed_updates + excluded.sealed_updates,
        sealed_amount = p.sealed_amount + excluded.sealed_amount
)
SELECT count(*) FROM gone
