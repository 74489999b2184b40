-- What a batch in quarantine counts, as far as its header tells: the amount goes into the column spend.

-- +goose Up

ALTER TABLE spendflush.quarantine ADD COLUMN updates bigint; -- of a batch whose header can be read

-- Those that are there already: where the producer is known, the header could be read. It has the updates in bytes 56
-- to 63 and the amount, a signed 128-bit number of 10^-12 dollars, in bytes 64 to 79; substr counts from 1.
UPDATE spendflush.quarantine SET
    updates = ('x' || encode(substr(bytes, 57, 8), 'hex'))::bit(64)::bigint,
    spend = (('x' || encode(substr(bytes, 65, 8), 'hex'))::bit(64)::bigint * 18446744073709551616::numeric
        + ('x' || encode(substr(bytes, 73, 4), 'hex'))::bit(32)::bigint * 4294967296::numeric
        + ('x' || encode(substr(bytes, 77, 4), 'hex'))::bit(32)::bigint) * 0.000000000001
WHERE kind = 'batch' AND producer IS NOT NULL;

-- +goose Down

UPDATE spendflush.quarantine SET spend = 0 WHERE kind = 'batch';
ALTER TABLE spendflush.quarantine DROP COLUMN updates;
