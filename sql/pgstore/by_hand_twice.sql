-- How many batches that were booked by hand beside all claims this transaction is about to book once more. It comes after the
-- claims, so that it sees what was committed while they waited for their rows.
-- $1 shard, $2 producers, $3 first and $4 last sequences, $5 the last digests; $6 producers, $7 sequences and $8 digests of
-- those found
SELECT count(*)
FROM spendflush.applied_by_hand h
WHERE h.beside AND h.shard = $1::smallint AND (
    EXISTS (
        SELECT FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bytea[]) AS c (producer, first, last, recent)
        WHERE c.producer = h.producer AND h.sequence BETWEEN c.first AND c.last
            AND c.last - h.sequence < length(c.recent) / 4
            AND substr(c.recent, length(c.recent) - 4 * (c.last - h.sequence + 1)::int + 1, 4) = substr(uuid_send(h.digest), 1, 4)
    )
    OR EXISTS (
        SELECT FROM unnest($6::uuid[], $7::bigint[], $8::uuid[]) AS f (producer, sequence, digest)
        WHERE f.producer = h.producer AND f.sequence = h.sequence AND f.digest = h.digest
    )
)
