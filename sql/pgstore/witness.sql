-- Writes down a new witness unless the last one is recent. A clock that was put back doesn't keep it from that.
-- $1 books, $2 whether it is wanted in any case
UPDATE spendflush.books
SET witnesses = (ARRAY[gen_random_uuid()] || witnesses)[1:64], witnessed_at = now()
WHERE id = $1::uuid AND ($2::boolean OR witnessed_at IS NULL OR witnessed_at NOT BETWEEN now() - interval '1.5 seconds' AND now())
