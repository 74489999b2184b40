-- Adds to the totals of entities.
-- $1 entities in order, $2 to $8 counters
INSERT INTO spendflush.total AS t (entity, spend, successful_requests, failed_requests, prompt_tokens, completion_tokens,
    cache_read_input_tokens, cache_creation_input_tokens, updated_at)
SELECT u.*, now()
FROM unnest($1::uuid[], $2::numeric[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
    AS u (entity, spend, successful_requests, failed_requests, prompt_tokens, completion_tokens,
        cache_read_input_tokens, cache_creation_input_tokens)
ORDER BY u.entity
ON CONFLICT (entity) DO UPDATE SET
    spend = t.spend + excluded.spend,
    successful_requests = t.successful_requests + excluded.successful_requests,
    failed_requests = t.failed_requests + excluded.failed_requests,
    prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = t.completion_tokens + excluded.completion_tokens,
    cache_read_input_tokens = t.cache_read_input_tokens + excluded.cache_read_input_tokens,
    cache_creation_input_tokens = t.cache_creation_input_tokens + excluded.cache_creation_input_tokens,
    updated_at = excluded.updated_at
