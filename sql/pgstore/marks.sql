-- The marks of producers in a shard, in one row: which books these are; before which birth unknown producers may have been pruned, how many
-- changes the books of the shard have had; then the producers, sequences, digests and their own sums, and the ranges of what was
-- lost of them, and whether that is in quarantine; and what was booked by hand beside all claims, and its digests.
-- $1 shard, $2 producers
WITH asked AS (
    SELECT producer, sequence, digest, recent, sealed_updates, sealed_amount
    FROM spendflush.producers
    WHERE shard = $1::smallint AND producer = ANY ($2::uuid[])
), missing AS (
    SELECT producer, first_sequence, last_sequence, quarantined
    FROM spendflush.lost_batches
    WHERE shard = $1::smallint AND producer IN (SELECT producer FROM asked) AND found_at IS NULL
    ORDER BY producer, first_sequence
), by_hand AS (
    SELECT producer, sequence, digest
    FROM spendflush.applied_by_hand
    WHERE shard = $1::smallint AND producer IN (SELECT producer FROM asked) AND beside
)
SELECT (SELECT id FROM spendflush.books), (SELECT max(horizon) FROM spendflush.pruned_marks WHERE horizon > 'epoch'),
    (SELECT changes FROM spendflush.control WHERE shard = $1::smallint AND book = 'rollup'),
    (SELECT array_agg(producer) FROM asked), (SELECT array_agg(sequence) FROM asked),
    (SELECT array_agg(digest) FROM asked), (SELECT array_agg(recent) FROM asked),
    (SELECT array_agg(sealed_updates) FROM asked), (SELECT array_agg(sealed_amount::text) FROM asked),
    (SELECT array_agg(producer) FROM missing),
    (SELECT array_agg(first_sequence) FROM missing), (SELECT array_agg(last_sequence) FROM missing),
    (SELECT array_agg(quarantined) FROM missing),
    (SELECT array_agg(producer) FROM by_hand), (SELECT array_agg(sequence) FROM by_hand), (SELECT array_agg(digest) FROM by_hand)
