-- What keeps totals and rollups from having the same updates: producers that are in the middle of a seal, or whose
-- lanes are at different ones; and what was lost or set aside for good.
SELECT now(),
    (SELECT count(*) FROM (
        SELECT FROM spendflush.producers
        WHERE producer <> '00000000-0000-0000-0000-000000000000'
        GROUP BY producer
        HAVING NOT bool_and(whole) OR min(seal) <> max(seal) OR count(*) < max(shards)
    ) AS moving),
    (SELECT count(*) FROM spendflush.lost_batches WHERE found_at IS NULL),
    -- What producers sealed up to their marks and isn't in the books; and how many say so without a batch that is lost.
    (SELECT coalesce(sum(sealed_updates - updates), 0)::bigint FROM spendflush.producers),
    (SELECT coalesce(sum(sealed_amount - amount), 0)::text FROM spendflush.producers),
    (SELECT count(*) || coalesce(', the first one ' || min(producer::text), '') FROM spendflush.producers p
        WHERE (sealed_updates, sealed_amount) <> (updates, amount) AND producer <> '00000000-0000-0000-0000-000000000000'
            AND NOT EXISTS (SELECT FROM spendflush.lost_batches l
                WHERE l.producer = p.producer AND l.shard = p.shard AND l.found_at IS NULL)),
    (SELECT count(*) FROM spendflush.quarantine WHERE state = 'open'),
    (SELECT count(*) FROM spendflush.quarantine WHERE kind = 'row' AND state <> 'applied')
