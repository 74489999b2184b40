-- Moves the marks of the producers of a flush. Answers how many moved: a known producer moves only from just before
-- the first batch claimed, an unknown one is taken up only with its first batch ever, and only if it was born when no mark
-- that was cleaned up can have been its own. A row is new if it was claimed once.
-- $1 shard, $2 producers in order, $3 shards, $4 first and $5 last sequences, $6 seals, $7 the seals before them,
-- $8 updates, $9 amounts, $10 updates and $11 amounts sealed up to the last sequences
WITH claimed AS (
    INSERT INTO spendflush.producers AS p
        (producer, shard, shards, first_seen, claimed_from, sequence, claims, seal, whole, updates, seen_at, amount,
            sealed_updates, sealed_amount)
    SELECT u.producer, $1::smallint, u.shards, now(), u.first, u.last, 1, u.seal, u.seal > u.prior, u.updates, now(), u.amount,
        u.sealed_updates, u.sealed_amount
    FROM unnest($2::uuid[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::numeric[],
            $10::bigint[], $11::numeric[])
        AS u (producer, shards, first, last, seal, prior, updates, amount, sealed_updates, sealed_amount)
    ORDER BY u.producer
    ON CONFLICT (producer, shard) DO UPDATE SET
        shards = excluded.shards,
        claimed_from = excluded.claimed_from,
        sequence = excluded.sequence,
        claims = p.claims + 1,
        seal = excluded.seal,
        whole = excluded.whole AND excluded.seal > p.seal,
        updates = p.updates + excluded.updates,
        seen_at = excluded.seen_at,
        amount = p.amount + excluded.amount,
        sealed_updates = excluded.sealed_updates,
        sealed_amount = excluded.sealed_amount
    WHERE p.sequence = excluded.claimed_from - 1
    RETURNING p.claims, p.claimed_from, p.producer
), forgotten AS (
    SELECT (lpad(to_hex((extract(epoch FROM max(seen_at)) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid AS before
    FROM spendflush.producers
    WHERE producer = '00000000-0000-0000-0000-000000000000' AND seen_at > 'epoch'
)
SELECT count(*) FILTER (WHERE claims > 1 OR claimed_from = 1 AND (before IS NULL OR producer >= before))
FROM claimed, forgotten
