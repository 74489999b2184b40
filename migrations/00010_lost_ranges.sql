-- What a claim passes as lost is one row, however many batches it is.

-- +goose Up

ALTER TABLE spendflush.lost_batches RENAME COLUMN sequence TO first_sequence;
ALTER TABLE spendflush.lost_batches ADD COLUMN last_sequence bigint;
UPDATE spendflush.lost_batches SET last_sequence = first_sequence WHERE found_at IS NOT NULL OR quarantined;

-- Batches in a row that were passed together become one row.
CREATE TABLE spendflush.lost_before AS
SELECT producer, shard, min(first_sequence) AS first_sequence, max(first_sequence) AS last_sequence, reason, noticed_at
FROM (
    SELECT producer, shard, first_sequence, reason, noticed_at,
        first_sequence - row_number() OVER (PARTITION BY producer, shard, reason, noticed_at ORDER BY first_sequence) AS island
    FROM spendflush.lost_batches
    WHERE found_at IS NULL AND NOT quarantined
) AS l
GROUP BY producer, shard, reason, noticed_at, island;
DELETE FROM spendflush.lost_batches WHERE found_at IS NULL AND NOT quarantined;
INSERT INTO spendflush.lost_batches (producer, shard, first_sequence, last_sequence, reason, noticed_at)
SELECT producer, shard, first_sequence, last_sequence, reason, noticed_at FROM spendflush.lost_before;
DROP TABLE spendflush.lost_before;

-- A batch that is found, or is in quarantine, stands by itself.
ALTER TABLE spendflush.lost_batches
    ALTER COLUMN last_sequence SET NOT NULL,
    ADD CONSTRAINT lost_batches_range CHECK (first_sequence BETWEEN 1 AND last_sequence),
    ADD CONSTRAINT lost_batches_single CHECK (first_sequence = last_sequence OR found_at IS NULL AND NOT quarantined);

-- What marks are read with costs nothing for what was found long ago.
CREATE INDEX lost_batches_missing ON spendflush.lost_batches (producer, shard, first_sequence) WHERE found_at IS NULL;

-- +goose Down

-- Each batch becomes a row again. Of a range of billions of batches that takes hours, and hundreds of gigabytes.
DROP INDEX spendflush.lost_batches_missing;
ALTER TABLE spendflush.lost_batches DROP CONSTRAINT lost_batches_range, DROP CONSTRAINT lost_batches_single;
INSERT INTO spendflush.lost_batches (producer, shard, first_sequence, last_sequence, reason, noticed_at)
SELECT l.producer, l.shard, s.sequence, s.sequence, l.reason, l.noticed_at
FROM spendflush.lost_batches l
CROSS JOIN LATERAL generate_series(l.first_sequence + 1, l.last_sequence) AS s (sequence)
WHERE l.first_sequence < l.last_sequence;
ALTER TABLE spendflush.lost_batches DROP COLUMN last_sequence;
ALTER TABLE spendflush.lost_batches RENAME COLUMN first_sequence TO sequence;
