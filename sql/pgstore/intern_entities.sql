-- Takes up entities that aren't known yet.
-- $1 keys in order, $2 types, $3 ids, $4 teams
INSERT INTO spendflush.entity (key, entity_type, entity_id, team_id)
SELECT u.key, u.entity_type, u.entity_id, u.team_id
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS u (key, entity_type, entity_id, team_id)
ORDER BY u.key
ON CONFLICT (key) DO NOTHING
