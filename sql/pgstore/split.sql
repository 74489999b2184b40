-- Cuts batches out of the ranges that were skipped as lost: each gets a row by itself, and what is left of the range stays
-- lost. A batch that isn't in a range of several is left alone.
-- $1 shard, $2 producers, $3 sequences
WITH wanted AS (
    SELECT DISTINCT u.producer, u.sequence, l.first_sequence, l.last_sequence
    FROM unnest($2::uuid[], $3::bigint[]) AS u (producer, sequence)
    CROSS JOIN LATERAL (
        SELECT first_sequence, last_sequence
        FROM spendflush.lost_batches
        WHERE producer = u.producer AND shard = $1::smallint AND first_sequence <= u.sequence AND found_at IS NULL
        ORDER BY first_sequence DESC
        LIMIT 1
    ) AS l
    WHERE u.sequence <= l.last_sequence AND l.first_sequence < l.last_sequence
), cut AS (
    DELETE FROM spendflush.lost_batches l
    USING (SELECT DISTINCT producer, first_sequence FROM wanted) AS w
    WHERE l.producer = w.producer AND l.shard = $1::smallint AND l.first_sequence = w.first_sequence
    RETURNING l.producer, l.first_sequence, l.reason, l.noticed_at
), pieces AS (
    SELECT w.producer, w.first_sequence AS cut_from, p.first_sequence, p.last_sequence
    FROM (
        SELECT producer, sequence, first_sequence, last_sequence,
            lag(sequence, 1, first_sequence - 1) OVER range AS before, lead(sequence) OVER range AS next
        FROM wanted
        WINDOW range AS (PARTITION BY producer, first_sequence ORDER BY sequence)
    ) AS w
    CROSS JOIN LATERAL (
        VALUES (w.before + 1, w.sequence - 1), (w.sequence, w.sequence), (w.sequence + 1, CASE WHEN w.next IS NULL THEN w.last_sequence END)
    ) AS p (first_sequence, last_sequence)
    WHERE p.first_sequence <= p.last_sequence
)
INSERT INTO spendflush.lost_batches (producer, shard, first_sequence, last_sequence, reason, noticed_at)
SELECT p.producer, $1::smallint, p.first_sequence, p.last_sequence, c.reason, c.noticed_at
FROM pieces p
JOIN cut c ON c.producer = p.producer AND c.first_sequence = p.cut_from
