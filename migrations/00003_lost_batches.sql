-- Batches that are passed as lost, and found again; marks that are cleaned up.

-- +goose Up

-- What the producer says it sealed up to its mark. In the books is the same but for what is lost.
ALTER TABLE spendflush.producers ADD COLUMN sealed_updates bigint, ADD COLUMN sealed_amount numeric(38,12);
UPDATE spendflush.producers SET sealed_updates = updates, sealed_amount = amount;
ALTER TABLE spendflush.producers ALTER COLUMN sealed_updates SET NOT NULL, ALTER COLUMN sealed_amount SET NOT NULL;

-- A producer that has nothing in the books yet has a row of sequence 0 once it is old, so that it is known to be alive.
ALTER TABLE spendflush.producers DROP CONSTRAINT producers_check;
ALTER TABLE spendflush.producers ADD CONSTRAINT producers_check CHECK (claimed_from BETWEEN 1 AND sequence + 1);

ALTER TABLE spendflush.lost_batches ADD COLUMN found_at timestamptz; -- when it turned up after all and was counted

-- The marks that were cleaned up are summed up under the nil producer. Its sequence is how many there were, its seen_at
-- the time before which a producer that isn't known may have been among them.

-- +goose Down

UPDATE spendflush.producers SET sequence = 1 WHERE sequence = 0;
ALTER TABLE spendflush.producers DROP CONSTRAINT producers_check;
ALTER TABLE spendflush.producers ADD CONSTRAINT producers_check CHECK (claimed_from BETWEEN 1 AND sequence);
ALTER TABLE spendflush.producers DROP COLUMN sealed_updates, DROP COLUMN sealed_amount;
ALTER TABLE spendflush.lost_batches DROP COLUMN found_at;
