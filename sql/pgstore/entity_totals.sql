-- The totals of some entities, in the order of their keys in $1. One without totals is left out.
-- $1 keys
SELECT k.place, t.spend::text, t.requests, t.updated_at
FROM unnest($1::uuid[]) WITH ORDINALITY AS k (key, place)
CROSS JOIN LATERAL (
    SELECT sum(t.spend) AS spend, sum(t.successful_requests::numeric + t.failed_requests)::bigint AS requests,
        max(t.updated_at) AS updated_at
    FROM spendflush.total t
    WHERE t.entity = k.key
    HAVING count(*) > 0
) AS t
ORDER BY k.place
