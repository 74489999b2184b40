-- Every entity with its key.
SELECT key, entity_type, entity_id, team_id FROM spendflush.entity
