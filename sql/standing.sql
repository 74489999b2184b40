-- What an operator must see at once: what is set aside or lost, and how the last audit ended.
SELECT (SELECT count(*) FROM spendflush.quarantine WHERE state = 'open'),
    (SELECT count(*) FROM spendflush.lost_batches WHERE found_at IS NULL),
    l.as_of, l.ok, l.seconds, l.failed
FROM (SELECT) AS one LEFT JOIN spendflush.last_audit AS l ON true
