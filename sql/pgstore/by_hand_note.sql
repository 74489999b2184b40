-- Notes that a batch is applied by hand. It writes no row if it was before, by whichever entry.
-- $1 shard, $2 producer, $3 sequence, $4 digest, $5 entry, $6 whether it is booked beside all claims, $7 updates, $8 amount
INSERT INTO spendflush.applied_by_hand (shard, producer, sequence, digest, entry, beside, updates, amount)
VALUES ($1::smallint, $2::uuid, $3::bigint, $4::uuid, $5::bigint, $6::boolean, $7::bigint, $8::numeric)
ON CONFLICT DO NOTHING
