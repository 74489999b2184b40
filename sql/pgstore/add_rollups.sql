-- Adds to the rollups of series.
-- $1 days, $2 hours, $3 series, in the order of all three, from $4 the counters
INSERT INTO spendflush.rollup AS t (day, hour, series, {{each "%"}})
SELECT u.*
FROM unnest($1::date[], $2::smallint[], $3::uuid[], {{arrays 4}})
    AS u (day, hour, series, {{each "%"}})
ORDER BY u.day, u.hour, u.series
ON CONFLICT (day, hour, series) DO UPDATE SET
    {{each "% = t.% + excluded.%"}}
