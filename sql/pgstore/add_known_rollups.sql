-- Adds to the rollups of series that have a row in the hour; those that have none are left out, and the count tells. It looks into
-- the parts of these days alone.
-- $1 days, $2 hours, $3 series, in the order of all three, from $4 the counters
UPDATE spendflush.rollup AS t SET
    {{each "% = t.% + u.%"}}
FROM unnest($1::date[], $2::smallint[], $3::uuid[], {{arrays 4}})
    AS u (day, hour, series, {{each "%"}})
WHERE t.day = u.day AND t.hour = u.hour AND t.series = u.series
    AND t.day BETWEEN ($1::date[])[1] AND ($1::date[])[cardinality($1::date[])]
