-- Entities of a type behind one of them, in the order of their names, by the index.
-- $1 type, $2 id and $3 team of the one that they are behind, '' for all, $4 how many
SELECT e.key, e.entity_id, e.team_id
FROM spendflush.entity e
WHERE e.entity_type = $1::text AND (e.entity_id, e.team_id) > ($2::text, $3::text)
ORDER BY e.entity_type, e.entity_id, e.team_id
LIMIT $4::integer
