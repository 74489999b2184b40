-- Adds to the totals of entities in a shard.
-- $1 entities in order, $2 to $8 counters, $9 shard
INSERT INTO spendflush.total AS t (entity, shard, spend, successful_requests, failed_requests, prompt_tokens, completion_tokens,
    cache_read_input_tokens, cache_creation_input_tokens, updated_at)
SELECT u.entity, $9::smallint, u.spend, u.successful_requests, u.failed_requests, u.prompt_tokens, u.completion_tokens,
    u.cache_read_input_tokens, u.cache_creation_input_tokens, now()
FROM unnest($1::uuid[], $2::numeric[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
    AS u (entity, spend, successful_requests, failed_requests, prompt_tokens, completion_tokens,
        cache_read_input_tokens, cache_creation_input_tokens)
ORDER BY u.entity
ON CONFLICT (entity, shard) DO UPDATE SET
    spend = t.spend + excluded.spend,
    successful_requests = t.successful_requests + excluded.successful_requests,
    failed_requests = t.failed_requests + excluded.failed_requests,
    prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = t.completion_tokens + excluded.completion_tokens,
    cache_read_input_tokens = t.cache_read_input_tokens + excluded.cache_read_input_tokens,
    cache_creation_input_tokens = t.cache_creation_input_tokens + excluded.cache_creation_input_tokens,
    updated_at = excluded.updated_at
