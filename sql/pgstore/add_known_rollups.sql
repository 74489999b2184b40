-- Adds to the rollups of series that have a row in the hour; those that have none are left out, and the count tells.
-- $1 days, $2 hours, $3 series, in the order of all three, $4 to $10 counters
UPDATE spendflush.rollup AS t SET
    spend = t.spend + u.spend,
    successful_requests = t.successful_requests + u.successful_requests,
    failed_requests = t.failed_requests + u.failed_requests,
    prompt_tokens = t.prompt_tokens + u.prompt_tokens,
    completion_tokens = t.completion_tokens + u.completion_tokens,
    cache_read_input_tokens = t.cache_read_input_tokens + u.cache_read_input_tokens,
    cache_creation_input_tokens = t.cache_creation_input_tokens + u.cache_creation_input_tokens
FROM unnest($1::date[], $2::smallint[], $3::uuid[], $4::numeric[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
        $9::bigint[], $10::bigint[])
    AS u (day, hour, series, spend, successful_requests, failed_requests, prompt_tokens, completion_tokens,
        cache_read_input_tokens, cache_creation_input_tokens)
WHERE t.day = u.day AND t.hour = u.hour AND t.series = u.series
