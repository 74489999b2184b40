-- Holds the marks of producers until the end of the transaction, before batches that they have lost are found or set aside, or
-- one is applied by hand: of two that lie in one range the second one must see what the first has left of it. Where a producer
-- has no mark, what was pruned is held.
-- $1 shard, $2 producers
WITH held AS (
    SELECT FROM spendflush.producers WHERE shard = $1::smallint AND producer = ANY ($2::uuid[]) ORDER BY producer FOR NO KEY UPDATE
), pruned AS (
    SELECT FROM spendflush.pruned_marks
    WHERE shard = $1::smallint AND (SELECT count(*) FROM held) < (SELECT count(DISTINCT producer) FROM unnest($2::uuid[]) AS u (producer))
    FOR NO KEY UPDATE
)
SELECT (SELECT count(*) FROM held), (SELECT count(*) FROM pruned)
