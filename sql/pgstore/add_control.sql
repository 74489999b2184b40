-- Adds to the control sums of a shard, and counts the changes in that of the book 'rollup', which is always among them.
-- $1 shard, $2 books, $3 to $9 counters, $10 changes
INSERT INTO spendflush.control AS t (shard, book, spend, successful_requests, failed_requests, prompt_tokens,
    completion_tokens, cache_read_input_tokens, cache_creation_input_tokens, changes)
SELECT $1::smallint, u.*, CASE u.book WHEN 'rollup' THEN $10::smallint ELSE 0 END
FROM unnest($2::text[], $3::numeric[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[])
    AS u (book, spend, successful_requests, failed_requests, prompt_tokens, completion_tokens,
        cache_read_input_tokens, cache_creation_input_tokens)
ORDER BY u.book
ON CONFLICT (shard, book) DO UPDATE SET
    spend = t.spend + excluded.spend,
    successful_requests = t.successful_requests + excluded.successful_requests,
    failed_requests = t.failed_requests + excluded.failed_requests,
    prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = t.completion_tokens + excluded.completion_tokens,
    cache_read_input_tokens = t.cache_read_input_tokens + excluded.cache_read_input_tokens,
    cache_creation_input_tokens = t.cache_creation_input_tokens + excluded.cache_creation_input_tokens,
    changes = t.changes + excluded.changes
