-- Keeps for an hour what was taken out of which batch.
-- $1 shard, $2 producers, $3 sequences, $4 what was taken out
INSERT INTO spendflush.taken_out AS t (producer, shard, sequence, taken, committed_at)
SELECT u.producer, $1::smallint, u.sequence, u.taken, now()
FROM unnest($2::uuid[], $3::bigint[], $4::bytea[]) AS u (producer, sequence, taken)
ON CONFLICT (producer, shard, sequence) DO UPDATE SET taken = excluded.taken, committed_at = excluded.committed_at
