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
SELECT now(), t.shards > 0, coalesce(t.updated_at, now()), t.spend::text, t.successful_requests, t.failed_requests, t.prompt_tokens,
    t.completion_tokens, t.cache_read_input_tokens, t.cache_creation_input_tokens,
    coalesce((SELECT array_agg(shard::integer ORDER BY shard) FROM asked), '{}'),
    coalesce((SELECT array_agg(sequence ORDER BY shard) FROM asked), '{}'),
    coalesce((SELECT array_agg(shard::integer ORDER BY shard, first_sequence) FROM missing), '{}'),
    coalesce((SELECT array_agg(first_sequence ORDER BY shard, first_sequence) FROM missing), '{}'),
    coalesce((SELECT array_agg(last_sequence ORDER BY shard, first_sequence) FROM missing), '{}')
FROM (
    SELECT count(*) AS shards, max(updated_at) AS updated_at, coalesce(sum(spend), 0) AS spend,
        coalesce(sum(successful_requests), 0)::bigint AS successful_requests,
        coalesce(sum(failed_requests), 0)::bigint AS failed_requests,
        coalesce(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
        coalesce(sum(completion_tokens), 0)::bigint AS completion_tokens,
        coalesce(sum(cache_read_input_tokens), 0)::bigint AS cache_read_input_tokens,
        coalesce(sum(cache_creation_input_tokens), 0)::bigint AS cache_creation_input_tokens
    FROM spendflush.total
    WHERE entity = $1::uuid
) AS t
