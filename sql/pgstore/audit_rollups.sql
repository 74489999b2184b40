-- Every rollup row.
SELECT day, hour, series, {{each "%"}}
FROM spendflush.rollup
