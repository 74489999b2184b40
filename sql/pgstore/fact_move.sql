-- Moves the turns of buckets that fact_hold holds. Answers how many it has moved: those that are as they were read.
-- $1 buckets, $2 turns
WITH moved AS (
    UPDATE spendflush.id_buckets t SET turn = t.turn + 1
    FROM unnest($1::smallint[], $2::bigint[]) AS u (bucket, turn)
    WHERE t.bucket = u.bucket AND t.turn = u.turn
    RETURNING t.bucket
)
SELECT count(*) FROM moved
