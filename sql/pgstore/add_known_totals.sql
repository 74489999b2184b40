-- Adds to the totals of entities that have one in the shard; those that have none are left out, and the count tells.
-- $1 entities in order, $2 shard, from $3 the counters
UPDATE spendflush.total AS t SET
    {{each "% = t.% + u.%"}},
    updated_at = now()
FROM unnest($1::uuid[], {{arrays 3}})
    AS u (entity, {{each "%"}})
WHERE t.entity = u.entity AND t.shard = $2::smallint
