-- How much the database holds.
SELECT p.producers, p.updates, p.last_commit,
    (SELECT greatest(0, reltuples)::bigint FROM pg_class WHERE oid = 'spendflush.entity'::regclass),
    (SELECT greatest(0, reltuples)::bigint FROM pg_class WHERE oid = 'spendflush.series'::regclass),
    (SELECT greatest(0, reltuples)::bigint FROM pg_class WHERE oid = 'spendflush.rollup'::regclass),
    (SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'spendflush'::regnamespace),
    (SELECT count(*) FROM spendflush.quarantine WHERE state = 'open'),
    (SELECT count(*) FROM spendflush.lost_batches WHERE found_at IS NULL),
    (SELECT max(version_id) FROM spendflush.migrations)
FROM (SELECT count(*) FILTER (WHERE producer <> '00000000-0000-0000-0000-000000000000') AS producers, coalesce(sum(updates), 0)::bigint AS updates, max(seen_at) FILTER (WHERE sequence > 0) AS last_commit
    FROM spendflush.producers) AS p
