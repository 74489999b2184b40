-- Ranges of batches skipped as lost, the latest producers first, and within one the latest ranges. With each, what is missing from
-- the books of all lost batches of its producer and shard together, those in quarantine left out, and how many these are:
-- of one range alone it isn't known.
-- $1 producer, $2 shard and $3 first sequence to go on behind, the first NULL to begin; $4 'missing', 'quarantined', 'found', or ''
-- for all; $5 how many
SELECT l.producer, l.shard, l.first_sequence, l.last_sequence, l.reason, l.noticed_at, l.found_at, l.quarantined, m.updates, m.amount, m.batches
FROM (
    SELECT * FROM spendflush.lost_batches
    WHERE ($1::uuid IS NULL OR (producer, shard, first_sequence) < ($1::uuid, $2::smallint, $3::bigint))
        AND ($4::text = '' OR $4::text = CASE WHEN found_at IS NOT NULL THEN 'found' WHEN quarantined THEN 'quarantined' ELSE 'missing' END)
    ORDER BY producer DESC, shard DESC, first_sequence DESC
    LIMIT $5::integer
) AS l
CROSS JOIN LATERAL (
    SELECT (p.sealed_updates - p.updates - coalesce(sum(q.updates), 0))::bigint AS updates,
        (p.sealed_amount - p.amount - coalesce(sum(q.spend), 0))::text AS amount,
        (SELECT least(coalesce(sum(o.last_sequence - o.first_sequence + 1), 0), 9223372036854775807)::bigint
            FROM spendflush.lost_batches o
            WHERE o.producer = l.producer AND o.shard = l.shard AND o.found_at IS NULL AND NOT o.quarantined) AS batches
    FROM (SELECT) AS one
    LEFT JOIN spendflush.producers p ON p.producer = l.producer AND p.shard = l.shard
    LEFT JOIN (
        SELECT q.updates, q.spend
        FROM spendflush.lost_batches o
        JOIN spendflush.quarantine q ON q.kind = 'batch' AND q.state <> 'applied' AND q.producer = o.producer AND q.shard = o.shard
            AND q.sequence = o.first_sequence
        WHERE o.producer = l.producer AND o.shard = l.shard AND o.found_at IS NULL AND o.quarantined
    ) AS q ON true
    GROUP BY p.sealed_updates, p.updates, p.sealed_amount, p.amount
) AS m
ORDER BY l.producer DESC, l.shard DESC, l.first_sequence DESC
