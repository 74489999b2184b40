-- Claims batches that were passed as lost and have turned up. Answers how many of them were still missing.
-- $1 shard, $2 producers, $3 sequences, $4 updates, $5 amounts
WITH found AS (
    UPDATE spendflush.lost_batches l
    SET found_at = now()
    FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::numeric[]) AS u (producer, sequence, updates, amount)
    WHERE l.producer = u.producer AND l.shard = $1::smallint AND l.sequence = u.sequence AND l.found_at IS NULL
    RETURNING u.producer, u.updates, u.amount
), counted AS (
    UPDATE spendflush.producers p
    SET updates = p.updates + s.updates, amount = p.amount + s.amount, seen_at = greatest(seen_at, now())
    FROM (SELECT producer, sum(updates)::bigint AS updates, sum(amount) AS amount FROM found GROUP BY producer) AS s
    WHERE p.producer = s.producer AND p.shard = $1::smallint
)
SELECT count(*) FROM found
