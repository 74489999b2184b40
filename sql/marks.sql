-- The marks of producers in a shard, in one row: before which birth unknown producers may have been cleaned up, how many
-- updates the books of the shard have, and then the producers, sequences and their own sums, and what was lost of them.
-- $1 shard, $2 producers
WITH asked AS (
    SELECT producer, sequence, sealed_updates, sealed_amount
    FROM spendflush.producers
    WHERE shard = $1::smallint AND producer = ANY ($2::uuid[])
), missing AS (
    SELECT producer, sequence
    FROM spendflush.lost_batches
    WHERE shard = $1::smallint AND producer IN (SELECT producer FROM asked) AND found_at IS NULL
    ORDER BY producer, sequence
)
SELECT (SELECT max(seen_at) FROM spendflush.producers WHERE producer = '00000000-0000-0000-0000-000000000000'),
    (SELECT successful_requests + failed_requests FROM spendflush.control WHERE shard = $1::smallint AND book = 'rollup'),
    (SELECT array_agg(producer) FROM asked), (SELECT array_agg(sequence) FROM asked),
    (SELECT array_agg(sealed_updates) FROM asked), (SELECT array_agg(sealed_amount::text) FROM asked),
    (SELECT array_agg(producer) FROM missing), (SELECT array_agg(sequence) FROM missing)
