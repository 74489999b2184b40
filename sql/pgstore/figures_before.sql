-- Whether a day has rows from before fingerprints were kept.
-- $1 day
SELECT EXISTS (SELECT FROM spendflush.day_fingerprint WHERE day = $1::date AND shard = -1)
