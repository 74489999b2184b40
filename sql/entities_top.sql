-- The entities with the largest totals. It reads all totals.
-- $1 types, $2 how many
SELECT e.entity_type, e.entity_id, e.team_id, t.spend::text, t.successful_requests + t.failed_requests, t.updated_at
FROM spendflush.total t
JOIN spendflush.entity e ON e.key = t.entity
WHERE e.entity_type = ANY ($1::text[])
ORDER BY t.spend DESC, e.entity_type, e.entity_id, e.team_id
LIMIT $2::integer
