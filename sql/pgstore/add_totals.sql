-- Adds to the totals of entities in a shard.
-- $1 entities in order, $2 shard, from $3 the counters
INSERT INTO spendflush.total AS t (entity, shard, {{each "%"}}, updated_at)
SELECT u.entity, $2::smallint, {{each "u.%"}}, now()
FROM unnest($1::uuid[], {{arrays 3}})
    AS u (entity, {{each "%"}})
ORDER BY u.entity
ON CONFLICT (entity, shard) DO UPDATE SET
    {{each "% = t.% + excluded.%"}},
    updated_at = excluded.updated_at
