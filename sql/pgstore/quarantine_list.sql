-- $1 the state of the entries wanted, '' for all, $2 the id after which to go on, $3 how many
SELECT id, kind, state, reason, created_at, settled_at, coalesce(settled_by, ''), shard, producer, sequence, unclaimed,
    coalesce(length(bytes), 0), updates,
    coalesce(book, ''), coalesce(names::text, ''), day, hour, spend::text, {{whole "%"}}
FROM spendflush.quarantine
WHERE ($1::text = '' OR state = $1::text) AND id > $2::bigint
ORDER BY id
LIMIT $3::integer
