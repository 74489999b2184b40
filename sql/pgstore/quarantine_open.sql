-- Locks an open entry.
-- $1 id
SELECT kind, unclaimed, shard, bytes, coalesce(book, ''), row_key, coalesce(names::text, ''),
    coalesce((day - date '1970-01-01') * 24 + hour, 0), spend::text, {{whole "%"}}
FROM spendflush.quarantine
WHERE id = $1::bigint AND state = 'open'
FOR UPDATE
