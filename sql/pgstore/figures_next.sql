-- The last day before today, by UTC, whose figures aren't made or don't hold, with its fingerprint. Those that were made lately are left for a while.
-- $1 how long
SELECT f.day, f.fingerprint
FROM (SELECT day, sum(fingerprint) AS fingerprint FROM spendflush.day_fingerprint GROUP BY day) AS f
LEFT JOIN spendflush.figure_days d ON d.day = f.day
WHERE f.day < (now() AT TIME ZONE 'UTC')::date
    AND (d.day IS NULL OR d.fingerprint <> f.fingerprint AND (d.made_at < now() - $1::interval OR d.made_at > now() + $1::interval))
ORDER BY f.day DESC
LIMIT 1
