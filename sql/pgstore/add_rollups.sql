-- Adds to the rollups of series.
-- $1 days, $2 hours, $3 series, in the order of all three, $4 to $10 counters
INSERT INTO spendflush.rollup AS t (day, hour, series, spend, successful_requests, failed_requests, prompt_tokens,
    completion_tokens, cache_read_input_tokens, cache_creation_input_tokens)
SELECT u.*
FROM unnest($1::date[], $2::smallint[], $3::uuid[], $4::numeric[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
        $9::bigint[], $10::bigint[])
    AS u (day, hour, series, spend, successful_requests, failed_requests, prompt_tokens, completion_tokens,
        cache_read_input_tokens, cache_creation_input_tokens)
ORDER BY u.day, u.hour, u.series
ON CONFLICT (day, hour, series) DO UPDATE SET
    spend = t.spend + excluded.spend,
    successful_requests = t.successful_requests + excluded.successful_requests,
    failed_requests = t.failed_requests + excluded.failed_requests,
    prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = t.completion_tokens + excluded.completion_tokens,
    cache_read_input_tokens = t.cache_read_input_tokens + excluded.cache_read_input_tokens,
    cache_creation_input_tokens = t.cache_creation_input_tokens + excluded.cache_creation_input_tokens
