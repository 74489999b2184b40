-- What the parts that count have of ids: the place of the id among those asked for, from 1, what was said under it and when it was
-- committed, and the buckets, -1 for all. Each id is looked up by itself, part by part; a part that doesn't count is left out.
-- $1 first and $2 second halves of the ids
WITH u AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS u (high, low, place)
), live AS MATERIALIZED (
    SELECT bit_or(1 << part) AS parts FROM spendflush.id_parts WHERE state IN ('current', 'full')
)
{{parts `SELECT u.place, i.said, coalesce(i.buckets, -1), % AS part
FROM u
CROSS JOIN LATERAL (SELECT said, buckets FROM spendflush.ids_% i WHERE i.high = u.high AND i.low = u.low OFFSET 0) AS i
WHERE (SELECT parts & (1 << %) <> 0 FROM live)`}}
