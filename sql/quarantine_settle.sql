-- $1 id, $2 applied or dropped
UPDATE spendflush.quarantine SET state = $2::text, settled_at = now() WHERE id = $1::bigint AND state = 'open'
