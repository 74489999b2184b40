-- The entities with the largest totals. It reads all totals.
-- $1 types, $2 how many
SELECT e.entity_type, e.entity_id, e.team_id, t.spend::text, t.requests, t.updated_at
FROM (
    SELECT entity, sum(spend) AS spend, sum(successful_requests::numeric + failed_requests)::bigint AS requests,
        max(updated_at) AS updated_at
    FROM spendflush.total
    GROUP BY entity
) AS t
JOIN spendflush.entity e ON e.key = t.entity
WHERE e.entity_type = ANY ($1::text[])
ORDER BY t.spend DESC, e.entity_type, e.entity_id, e.team_id
LIMIT $2::integer
