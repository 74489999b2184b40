-- Keeps the mark of a producer from moving until the end of the transaction.
-- $1 shard, $2 producer
SELECT FROM spendflush.producers WHERE shard = $1::smallint AND producer = $2::uuid FOR UPDATE
