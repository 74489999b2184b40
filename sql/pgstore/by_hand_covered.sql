-- Notes that claims of this transaction cover batches that were booked by hand beside all claims: what these count moves from what
-- was pruned to the mark of their producer. Answers how many of them there were.
-- $1 shard, $2 producers, $3 sequences, $4 digests
WITH covered AS (
    UPDATE spendflush.applied_by_hand h SET beside = false
    FROM unnest($2::uuid[], $3::bigint[], $4::uuid[]) AS u (producer, sequence, digest)
    WHERE h.producer = u.producer AND h.shard = $1::smallint AND h.sequence = u.sequence AND h.digest = u.digest AND h.beside
    RETURNING h.updates, h.amount
), moved AS (
    UPDATE spendflush.pruned_marks p
    SET updates = p.updates - s.updates, amount = p.amount - s.amount,
        sealed_updates = p.sealed_updates - s.updates, sealed_amount = p.sealed_amount - s.amount
    FROM (SELECT sum(updates)::bigint AS updates, sum(amount) AS amount FROM covered HAVING count(*) > 0) AS s
    WHERE p.shard = $1::smallint
)
SELECT count(*) FROM covered
