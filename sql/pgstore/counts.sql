-- How much the database holds.
SELECT p.producers, p.updates + coalesce((SELECT sum(updates) FROM spendflush.pruned_marks), 0)::bigint, p.last_commit,
    (SELECT greatest(0, reltuples)::bigint FROM pg_class WHERE oid = 'spendflush.entity'::regclass),
    (SELECT greatest(0, reltuples)::bigint FROM pg_class WHERE oid = 'spendflush.series'::regclass),
    (SELECT coalesce(sum(greatest(0, c.reltuples)), 0)::bigint FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'spendflush.rollup'::regclass),
    (SELECT coalesce(sum(greatest(0, reltuples)), 0)::bigint FROM pg_class
        WHERE relnamespace = 'spendflush'::regnamespace AND relname IN ('ids_0', 'ids_1', 'ids_2', 'ids_3', 'ids_4', 'ids_5')),
    (SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'spendflush'::regnamespace),
    (SELECT count(*) FROM spendflush.quarantine WHERE state = 'open'),
    (SELECT least(coalesce(sum(last_sequence - first_sequence + 1), 0), 9223372036854775807)::bigint
        FROM spendflush.lost_batches WHERE found_at IS NULL AND NOT quarantined),
    (SELECT max(version_id) FROM spendflush.migrations)
FROM (
    SELECT count(*) AS producers, coalesce(sum(updates), 0)::bigint AS updates, max(seen_at) FILTER (WHERE sequence > 0) AS last_commit
    FROM spendflush.producers
) AS p
