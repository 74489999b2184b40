-- What is seen of the books and the server at a glance: cheap enough to be asked every second.
SELECT (SELECT id FROM spendflush.books), split_part(current_setting('server_version'), ' ', 1), current_setting('max_connections')::integer,
    (SELECT coalesce(sum(numbackends), 0)::integer FROM pg_stat_database),
    b.updates, b.amount,
    q.entries, q.conflicts, i.ids, i.bytes,
    l.batches, l.noticed_at,
    a.as_of, a.ok, a.seconds, a.failed
FROM (
    SELECT coalesce(sum(updates), 0)::bigint AS updates, coalesce(sum(amount), 0)::text AS amount
    FROM (
        SELECT updates, amount FROM spendflush.producers
        UNION ALL
        SELECT updates, amount FROM spendflush.pruned_marks
    ) AS marks
) AS b
CROSS JOIN (
    SELECT least(coalesce(sum(last_sequence - first_sequence + 1), 0), 9223372036854775807)::bigint AS batches, max(noticed_at) AS noticed_at
    FROM spendflush.lost_batches
    WHERE found_at IS NULL AND NOT quarantined
) AS l
CROSS JOIN (
    SELECT count(*) AS entries, count(*) FILTER (WHERE kind = 'conflict') AS conflicts FROM spendflush.quarantine WHERE state = 'open'
) AS q
CROSS JOIN (
    SELECT coalesce(sum(greatest(0, reltuples)), 0)::bigint AS ids, coalesce(sum(pg_total_relation_size(oid)), 0)::bigint AS bytes
    FROM pg_class WHERE relnamespace = 'spendflush'::regnamespace AND relname IN ('ids_0', 'ids_1', 'ids_2', 'ids_3', 'ids_4', 'ids_5')
) AS i
LEFT JOIN spendflush.last_audit AS a ON true
