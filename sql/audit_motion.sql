-- What keeps totals and rollups from having the same updates: producers that are in the middle of a seal, or whose
-- lanes are at different ones; and what was lost or set aside for good.
SELECT now(),
    (SELECT count(*) FROM (
        SELECT FROM spendflush.producers
        GROUP BY producer
        HAVING NOT bool_and(whole) OR min(seal) <> max(seal) OR count(*) < max(shards)
    ) AS moving),
    (SELECT count(*) FROM spendflush.lost_batches),
    (SELECT count(*) FROM spendflush.quarantine WHERE state = 'open'),
    (SELECT count(*) FROM spendflush.quarantine WHERE kind = 'row' AND state <> 'applied')
