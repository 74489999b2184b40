-- $1 id, $2 applied or dropped, $3 who does it
UPDATE spendflush.quarantine SET state = $2::text, settled_at = now(), settled_by = $3::text
WHERE id = $1::bigint AND state = 'open'
