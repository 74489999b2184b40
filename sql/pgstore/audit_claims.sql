-- Shards whose claims, those of pruned marks included, aren't what their control sums say, and what all claims add up to. So it is for
-- what is booked, and for what was taken out before.
WITH marks AS (
    SELECT shard, updates, amount, duplicate_updates, duplicate_amount, conflict_updates, conflict_amount FROM spendflush.producers
    UNION ALL
    SELECT shard, updates, amount, duplicate_updates, duplicate_amount, conflict_updates, conflict_amount FROM spendflush.pruned_marks
), claimed AS (
    SELECT shard, book, sum(b.updates::numeric) AS updates, sum(b.amount) AS amount
    FROM marks m
    CROSS JOIN LATERAL (
        VALUES ('rollup', m.updates, m.amount), ('duplicate', m.duplicate_updates, m.duplicate_amount),
            ('conflict', m.conflict_updates, m.conflict_amount)
    ) AS b (book, updates, amount)
    GROUP BY shard, book
), compared AS (
    SELECT shard, book, coalesce(c.updates, 0) AS updates, coalesce(c.amount, 0) AS amount,
        coalesce(b.successful_requests + b.failed_requests, 0) AS booked_updates, coalesce(b.spend, 0) AS booked
    FROM claimed c
    FULL JOIN (SELECT * FROM spendflush.control WHERE book IN ('rollup', 'duplicate', 'conflict')) AS b USING (shard, book)
)
SELECT coalesce(sum(updates) FILTER (WHERE book = 'rollup'), 0)::text,
    trim_scale(coalesce(sum(amount) FILTER (WHERE book = 'rollup'), 0))::text,
    count(*) FILTER (WHERE odd)::text,
    coalesce(string_agg(format('shard %s: %s %s dollars in %s updates, control sums %s in %s', shard,
        CASE book WHEN 'rollup' THEN 'claims' ELSE book || 's' END, trim_scale(amount), updates,
        trim_scale(booked), booked_updates), '; ' ORDER BY shard, book DESC) FILTER (WHERE odd), ''),
    trim_scale(coalesce(sum(amount) FILTER (WHERE book = 'duplicate'), 0))::text,
    coalesce(sum(updates) FILTER (WHERE book = 'duplicate'), 0)::text
FROM (SELECT *, (updates, amount) IS DISTINCT FROM (booked_updates, booked) AS odd FROM compared) AS c
