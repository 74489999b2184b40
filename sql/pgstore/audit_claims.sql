-- Shards whose claims, those of pruned marks included, aren't what their control sums say, and what all claims add up to.
WITH claimed AS (
    SELECT shard, sum(updates::numeric) AS updates, sum(amount) AS amount
    FROM (
        SELECT shard, updates, amount FROM spendflush.producers
        UNION ALL
        SELECT shard, updates, amount FROM spendflush.pruned_marks
    ) AS marks
    GROUP BY shard
), compared AS (
    SELECT shard, coalesce(c.updates, 0) AS updates, coalesce(c.amount, 0) AS amount,
        coalesce(b.successful_requests + b.failed_requests, 0) AS booked_updates, coalesce(b.spend, 0) AS booked
    FROM claimed c
    FULL JOIN (SELECT * FROM spendflush.control WHERE book = 'rollup') AS b USING (shard)
)
SELECT coalesce(sum(updates), 0)::text, trim_scale(coalesce(sum(amount), 0))::text,
    count(*) FILTER (WHERE odd)::text,
    coalesce(string_agg(format('shard %s: claims %s dollars in %s updates, control sums %s in %s', shard, trim_scale(amount), updates,
        trim_scale(booked), booked_updates), '; ' ORDER BY shard) FILTER (WHERE odd), '')
FROM (SELECT *, (updates, amount) IS DISTINCT FROM (booked_updates, booked) AS odd FROM compared) AS c
