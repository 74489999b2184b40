-- The totals of some entities, in the order of their keys in $1. One without totals is left out.
-- $1 keys
SELECT k.place, t.spend::text, t.requests, t.updated_at
FROM unnest($1::uuid[]) WITH ORDINALITY AS k (key, place)
CROSS JOIN LATERAL (
    {{totalOf "k.key"}}
) AS t
ORDER BY k.place
