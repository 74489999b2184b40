-- Gives the books another id. Flushes that have claimed anything were waited for.
-- $1 the new id, NULL for a random one
UPDATE spendflush.books
SET earlier = array_append(earlier, id), id = coalesce($1::uuid, gen_random_uuid()), made_at = now(), witnesses = '{}', witnessed_at = NULL
RETURNING id
