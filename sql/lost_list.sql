-- Batches passed as lost, the latest producers first, and within one the latest batches. With each, what is missing from
-- the books of all lost batches of its producer and shard together, and how many these are: of one alone it isn't known.
-- $1 producer, $2 shard and $3 sequence to go on behind, the first NULL to begin; $4 'missing', 'found', or '' for all;
-- $5 how many
SELECT l.producer, l.shard, l.sequence, l.reason, l.noticed_at, l.found_at, p.sealed_updates - p.updates,
    (p.sealed_amount - p.amount)::text,
    (SELECT count(*) FROM spendflush.lost_batches o WHERE o.producer = l.producer AND o.shard = l.shard AND o.found_at IS NULL)
FROM (
    SELECT * FROM spendflush.lost_batches
    WHERE ($1::uuid IS NULL OR (producer, shard, sequence) < ($1::uuid, $2::smallint, $3::bigint))
        AND ($4::text = '' OR ($4::text = 'found') = (found_at IS NOT NULL))
    ORDER BY producer DESC, shard DESC, sequence DESC
    LIMIT $5::integer
) AS l
LEFT JOIN spendflush.producers p ON p.producer = l.producer AND p.shard = l.shard
ORDER BY l.producer DESC, l.shard DESC, l.sequence DESC
