-- Entities whose id begins with a text, in the order of their ids, by the index: of each type no more are looked at than are
-- wanted.
-- $1 types, $2 the text, $3 how many, $4 what comes behind every id that begins with the text
SELECT e.entity_type, e.entity_id, e.team_id, t.spend::text, t.requests, t.updated_at
FROM unnest($1::text[]) AS wanted (entity_type)
CROSS JOIN LATERAL (
    SELECT e.key, e.entity_type, e.entity_id, e.team_id
    FROM spendflush.entity e
    WHERE e.entity_type = wanted.entity_type AND e.entity_id >= $2::text AND e.entity_id <= $4::text
    ORDER BY e.entity_type, e.entity_id, e.team_id
    LIMIT $3::integer
) AS e
CROSS JOIN LATERAL (
    {{totalOf "e.key"}}
) AS t
ORDER BY e.entity_id, e.entity_type, e.team_id
LIMIT $3::integer
