-- Claims batches that were skipped as lost and have turned up, and notes of what digest they are. Answers how many of them were
-- still missing. It comes after split.sql, so that each has a row by itself.
-- $1 shard, $2 producers, $3 sequences, $4 updates, $5 amounts, $6 digests, and $7 those of the batches that they go on from
WITH found AS (
    UPDATE spendflush.lost_batches l
    SET found_at = now()
    FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::numeric[], $6::uuid[], $7::uuid[])
        AS u (producer, sequence, updates, amount, digest, prior)
    WHERE l.producer = u.producer AND l.shard = $1::smallint AND l.first_sequence = u.sequence AND l.last_sequence = u.sequence
        AND l.found_at IS NULL
    RETURNING u.producer, u.sequence, u.updates, u.amount, substr(uuid_send(u.digest), 1, 4) AS beginning,
        substr(uuid_send(u.prior), 1, 4) AS prior
), counted AS (
    UPDATE spendflush.producers p
    SET updates = p.updates + s.updates, amount = p.amount + s.amount, seen_at = greatest(seen_at, now()),
        recent = (
            -- The last one is that of the mark.
            SELECT coalesce(string_agg(coalesce(f.beginning, nullif(r.known, '\x00000000'), n.prior, r.known), ''::bytea ORDER BY r.sequence), ''::bytea)
            FROM (
                SELECT p.sequence - length(p.recent) / 4 + 1 + i AS sequence, substr(p.recent, 4 * i + 1, 4) AS known
                FROM generate_series(0, length(p.recent) / 4 - 1) AS i
            ) AS r
            LEFT JOIN found f ON f.producer = p.producer AND f.sequence = r.sequence
            LEFT JOIN found n ON n.producer = p.producer AND n.sequence = r.sequence + 1
        )
    FROM (SELECT producer, sum(updates)::bigint AS updates, sum(amount) AS amount FROM found GROUP BY producer) AS s
    WHERE p.producer = s.producer AND p.shard = $1::smallint
)
SELECT count(*) FROM found
