-- The days whose figures hold, and the kinds that have hours on them.
-- $1 first and $2 last day
SELECT d.day, d.hourly
FROM spendflush.figure_days d
WHERE d.day BETWEEN $1::date AND $2::date
    AND d.fingerprint = (SELECT sum(f.fingerprint) FROM spendflush.day_fingerprint f WHERE f.day = d.day)
