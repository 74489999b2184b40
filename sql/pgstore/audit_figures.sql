-- The days whose figures hold by their fingerprint and aren't what the rows add up to, or what those of all updates are: the first $1
-- of them, how many there are, and how many days have figures that hold.
-- $2 whether they are compared with the rows
WITH held AS MATERIALIZED (
    {{held}}
), kinds AS (
    -- Of a tag, or a member of a team, not every row counts once.
    SELECT day, kind FROM held CROSS JOIN (VALUES (0), (2), (3), (4), (5), (6), (7), (8), (9), (10), (11), (12)) AS v (kind)
), days AS (
    SELECT day, kind, {{each "sum(%) AS %"}}
    FROM spendflush.figure
    GROUP BY day, kind
), hours AS (
    SELECT day, kind, {{each "sum(%) AS %"}}
    FROM spendflush.figure_hour
    GROUP BY day, kind
), rows AS (
    SELECT day, {{each "sum(%) AS %"}}
    FROM spendflush.rollup
    WHERE $2::boolean AND day IN (SELECT day FROM held)
    GROUP BY day
    UNION ALL
    SELECT day, {{each "%"}}
    FROM spendflush.figure
    WHERE NOT $2::boolean AND kind = 0
), wrong AS (
    SELECT k.day
    FROM kinds k
    LEFT JOIN days d ON d.day = k.day AND d.kind = k.kind
    LEFT JOIN rows r ON r.day = k.day
    WHERE ({{each "d.%"}}) IS DISTINCT FROM ({{each "r.%"}})
    UNION
    SELECT h.day
    FROM held h
    CROSS JOIN unnest(h.hourly) AS u (kind)
    LEFT JOIN hours d ON d.day = h.day AND d.kind = u.kind
    LEFT JOIN rows r ON r.day = h.day
    WHERE ({{each "d.%"}}) IS DISTINCT FROM ({{each "r.%"}})
)
SELECT coalesce((SELECT array_agg(day::text) FROM (SELECT day FROM wrong ORDER BY day LIMIT $1) AS w), '{}'),
    (SELECT count(*) FROM wrong), (SELECT count(*) FROM held)
