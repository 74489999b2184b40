-- Keeps ids that the flush counts, in the part that is current. There is a statement for each part, with its number in the place of 0.
-- $1 first and $2 second halves of the ids, $3 what was said under them, $4 the buckets that they count in, -1 for all
INSERT INTO spendflush.ids_0 (high, low, said, buckets)
SELECT u.high, u.low, u.said | p.minute, nullif(u.buckets, -1)
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS u (high, low, said, buckets)
CROSS JOIN (
    SELECT least(greatest(floor(extract(epoch FROM now() - opened_at) / 60), 0), 65535)::bigint AS minute
    FROM spendflush.id_parts
    WHERE part = 0
) AS p
