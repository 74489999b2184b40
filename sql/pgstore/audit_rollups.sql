-- Every rollup row.
SELECT day, hour, series, spend, successful_requests, failed_requests, prompt_tokens, completion_tokens,
    cache_read_input_tokens, cache_creation_input_tokens
FROM spendflush.rollup
