-- Adds to the fingerprints of days in a shard.
-- $1 shard, $2 days, $3 fingerprints as decimal texts
INSERT INTO spendflush.day_fingerprint AS t (shard, day, fingerprint)
SELECT $1::smallint, u.day, mod(sum(u.fingerprint::numeric), 340282366920938463463374607431768211456)
FROM unnest($2::date[], $3::text[]) AS u (day, fingerprint)
GROUP BY u.day
ORDER BY u.day
ON CONFLICT (shard, day) DO UPDATE SET
    fingerprint = mod(t.fingerprint + excluded.fingerprint, 340282366920938463463374607431768211456)
