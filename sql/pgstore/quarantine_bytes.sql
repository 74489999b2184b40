-- $1 id
SELECT bytes FROM spendflush.quarantine WHERE id = $1::bigint AND kind IN ('batch', 'conflict')
