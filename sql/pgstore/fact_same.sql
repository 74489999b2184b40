-- How many turns are as they were read, on what may be another server by now.
-- $1 buckets, $2 turns
SELECT count(*)
FROM unnest($1::smallint[], $2::bigint[]) AS u (bucket, turn)
JOIN spendflush.id_buckets t ON t.bucket = u.bucket AND t.turn = u.turn
