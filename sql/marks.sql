-- $1 shard, $2 producers
SELECT producer, sequence FROM spendflush.producers WHERE shard = $1::smallint AND producer = ANY ($2::uuid[])
