-- Adds to the totals of entities that have one in the shard; those that have none are left out, and the count tells.
-- $1 entities in order, $2 to $8 counters, $9 shard
UPDATE spendflush.total AS t SET
    spend = t.spend + u.spend,
    successful_requests = t.successful_requests + u.successful_requests,
    failed_requests = t.failed_requests + u.failed_requests,
    prompt_tokens = t.prompt_tokens + u.prompt_tokens,
    completion_tokens = t.completion_tokens + u.completion_tokens,
    cache_read_input_tokens = t.cache_read_input_tokens + u.cache_read_input_tokens,
    cache_creation_input_tokens = t.cache_creation_input_tokens + u.cache_creation_input_tokens,
    updated_at = now()
FROM unnest($1::uuid[], $2::numeric[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
    AS u (entity, spend, successful_requests, failed_requests, prompt_tokens, completion_tokens,
        cache_read_input_tokens, cache_creation_input_tokens)
WHERE t.entity = u.entity AND t.shard = $9::smallint
