-- Which part takes ids, and the turns of all buckets in order. It is asked before fact_find: what commits in between has moved
-- a turn.
SELECT (SELECT part FROM spendflush.id_parts WHERE state = 'current'),
    (SELECT string_agg(turn::text, ',' ORDER BY bucket) FROM spendflush.id_buckets)
