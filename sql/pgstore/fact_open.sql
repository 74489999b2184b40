-- Opens the part behind the one that was closed just now. It comes after fact_rotate.
UPDATE spendflush.id_parts n SET state = 'current', opened = c.observed, opened_at = now()
FROM spendflush.id_clock c
WHERE n.part = (SELECT (part + 1) % 6 FROM spendflush.id_parts WHERE state = 'full' ORDER BY closed DESC, part LIMIT 1)
    AND n.state = 'empty' AND NOT EXISTS (SELECT FROM spendflush.id_parts WHERE state = 'current')
