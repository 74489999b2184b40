-- Makes the parts that rollups lie in of today, by UTC, and of the two days to come, unless they are there.
SELECT count(*) FILTER (WHERE spendflush.make_rollup_part((now() AT TIME ZONE 'UTC')::date + ahead)) FROM generate_series(0, 2) AS ahead
