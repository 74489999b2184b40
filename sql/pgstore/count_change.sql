-- Counts a change of a shard that adds nothing to its control sums.
-- $1 shard
INSERT INTO spendflush.control AS t (shard, book, spend, successful_requests, failed_requests, prompt_tokens,
    completion_tokens, cache_read_input_tokens, cache_creation_input_tokens, changes)
VALUES ($1::smallint, 'rollup', 0, 0, 0, 0, 0, 0, 0, 1)
ON CONFLICT (shard, book) DO UPDATE SET changes = t.changes + 1
