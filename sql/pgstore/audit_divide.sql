-- The days that have rows, but for those whose figures hold; and the latter.
WITH held AS MATERIALIZED (
    {{held}}
), days AS (
    SELECT day FROM spendflush.day_fingerprint
    UNION
    SELECT from_day FROM spendflush.rollup_parts WHERE to_day = from_day + 1
)
SELECT coalesce((SELECT array_agg(day) FROM days WHERE day NOT IN (SELECT day FROM held)), '{}'),
    coalesce((SELECT array_agg(day) FROM held), '{}')
