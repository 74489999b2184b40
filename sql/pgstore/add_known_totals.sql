-- Adds to the totals of entities that have one in the shard; those that have none are left out, and the count tells.
-- The shard stands beside each entity: of a table without statistics the planner believes that few rows are of one shard, and
-- would compare these with each of the flush.
-- $1 entities in order, $2 shard, from $3 the counters
UPDATE spendflush.total AS t SET
    {{each "% = t.% + u.%"}},
    updated_at = now()
FROM unnest($1::uuid[], array_fill($2::smallint, ARRAY[cardinality($1::uuid[])]), {{arrays 3}})
    AS u (entity, shard, {{each "%"}})
WHERE t.entity = u.entity AND t.shard = u.shard
