-- The total of one entity, over all shards, and the marks of some producers, each in its shard, with what was lost of them,
-- in one snapshot.
-- $1 entity, $2 producers, those of the shards from 0
WITH asked AS (
    SELECT p.producer, p.shard, p.sequence
    FROM unnest($2::uuid[]) WITH ORDINALITY AS u (producer, place)
    JOIN spendflush.producers p ON p.producer = u.producer AND p.shard = u.place - 1
), missing AS (
    SELECT l.shard, l.first_sequence, l.last_sequence
    FROM asked a
    JOIN spendflush.lost_batches l ON l.producer = a.producer AND l.shard = a.shard AND l.found_at IS NULL
    ORDER BY l.shard, l.first_sequence
)
SELECT now(), t.shards > 0, coalesce(t.updated_at, now()), t.spend::text, {{whole "t.%"}},
    coalesce((SELECT array_agg(shard::integer ORDER BY shard) FROM asked), '{}'),
    coalesce((SELECT array_agg(sequence ORDER BY shard) FROM asked), '{}'),
    coalesce((SELECT array_agg(shard::integer ORDER BY shard, first_sequence) FROM missing), '{}'),
    coalesce((SELECT array_agg(first_sequence ORDER BY shard, first_sequence) FROM missing), '{}'),
    coalesce((SELECT array_agg(last_sequence ORDER BY shard, first_sequence) FROM missing), '{}')
FROM (
    SELECT count(*) AS shards, max(updated_at) AS updated_at, coalesce(sum(spend), 0) AS spend,
        {{whole "coalesce(sum(%), 0)::bigint AS %"}}
    FROM spendflush.total
    WHERE entity = $1::uuid
) AS t
