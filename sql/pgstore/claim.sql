-- Moves the marks of the producers of a flush. Answers how many moved: a known producer moves only from just before
-- the first batch claimed, and only if the books have the very batch there that the flush goes on from; an unknown one is
-- taken up only with its first batch ever, and only if it was born when no mark that was pruned can have been its own. A
-- row is new if it was claimed once.
-- $1 shard, $2 producers in order, $3 first and $4 last sequences, $5 digests before the first and $6 of the last ones,
-- $7 the last digests, $8 updates, $9 amounts, $10 updates and $11 amounts sealed up to the last sequences
WITH claimed AS (
    INSERT INTO spendflush.producers AS p
        (producer, shard, first_seen, claimed_from, sequence, claims, updates, seen_at, amount, sealed_updates, sealed_amount,
            prior_digest, digest, recent)
    SELECT u.producer, $1::smallint, now(), u.first, u.last, 1, u.updates, now(), u.amount, u.sealed_updates, u.sealed_amount,
        u.prior, u.digest, u.recent
    FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::uuid[], $6::uuid[], $7::bytea[], $8::bigint[], $9::numeric[],
            $10::bigint[], $11::numeric[])
        AS u (producer, first, last, prior, digest, recent, updates, amount, sealed_updates, sealed_amount)
    ORDER BY u.producer
    ON CONFLICT (producer, shard) DO UPDATE SET
        claimed_from = excluded.claimed_from,
        sequence = excluded.sequence,
        claims = p.claims + 1,
        updates = p.updates + excluded.updates,
        seen_at = greatest(p.seen_at, excluded.seen_at), -- a clock that is behind doesn't make it look idle
        amount = p.amount + excluded.amount,
        sealed_updates = excluded.sealed_updates,
        sealed_amount = excluded.sealed_amount,
        prior_digest = excluded.prior_digest,
        digest = excluded.digest,
        recent = excluded.recent
    WHERE p.sequence = excluded.claimed_from - 1 AND p.digest = excluded.prior_digest
    RETURNING p.claims, p.claimed_from, p.producer
), pruned AS (
    SELECT (lpad(to_hex((extract(epoch FROM max(horizon)) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid AS before
    FROM spendflush.pruned_marks
    WHERE horizon > 'epoch'
)
SELECT count(*) FILTER (WHERE claims > 1 OR claimed_from = 1 AND (before IS NULL OR producer >= before))
FROM claimed, pruned
