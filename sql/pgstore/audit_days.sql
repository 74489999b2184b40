-- The fingerprints of the days, from 2000-01-01; whether a day has rows that are older than fingerprints, and whether it can
-- have such rows: they are older than the migration that made the table, two days left for updates of another time zone.
SELECT f.day - date '2000-01-01', mod(coalesce(sum(f.fingerprint) FILTER (WHERE f.shard <> -1), 0),
        340282366920938463463374607431768211456)::text,
    bool_or(f.shard = -1),
    f.day <= (SELECT max(m.tstamp)::date + 2 FROM spendflush.migrations m WHERE m.version_id = 6)
FROM spendflush.day_fingerprint f
GROUP BY f.day
