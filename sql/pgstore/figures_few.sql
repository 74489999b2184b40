-- The kinds that have few names on a day.
-- $1 day, $2 how many
SELECT coalesce(array_agg(kind ORDER BY kind), '{}')
FROM (SELECT kind FROM spendflush.figure WHERE day = $1::date AND kind IN (0, 2, 6, 8, 9, 10, 12) GROUP BY kind HAVING count(*) <= $2::integer) AS few
