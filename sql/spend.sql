-- The total of one entity and the marks of one producer, in one snapshot.
-- $1 entity, $2 producer
SELECT now(), t.entity IS NOT NULL, coalesce(t.updated_at, now()),
    coalesce(t.spend, 0)::text, coalesce(t.successful_requests, 0), coalesce(t.failed_requests, 0),
    coalesce(t.prompt_tokens, 0), coalesce(t.completion_tokens, 0),
    coalesce(t.cache_read_input_tokens, 0), coalesce(t.cache_creation_input_tokens, 0),
    coalesce(p.shards, '{}'), coalesce(p.sequences, '{}')
FROM (SELECT array_agg(shard::int) AS shards, array_agg(sequence) AS sequences
    FROM spendflush.producers WHERE producer = $2::uuid) AS p
LEFT JOIN spendflush.total t ON t.entity = $1::uuid
