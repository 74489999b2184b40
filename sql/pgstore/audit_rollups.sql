-- Rollup rows.
-- $1 their days, NULL for all
SELECT day, hour, series, {{each "%"}}
FROM spendflush.rollup
WHERE $1::date[] IS NULL OR day = ANY ($1::date[])
