-- What the role lacks of the rights that docs/runbook.md lists under Roles, such as "INSERT on spendflush.total". Other
-- tables may lie in the schema, which aren't ours to look at. One of ours that isn't there lacks nothing. And what the clock of
-- Postgres says.
WITH tables (name) AS (
    VALUES ('applied_by_hand'), ('books'), ('control'), ('day_fingerprint'), ('entity'), ('figure'), ('figure_days'), ('figure_hour'), ('id_buckets'), ('id_clock'), ('id_parts'), ('ids_0'), ('ids_1'),
        ('ids_2'), ('ids_3'), ('ids_4'), ('ids_5'), ('last_audit'), ('lost_batches'), ('producers'), ('pruned_marks'), ('quarantine'), ('rollup'), ('rollup_parts'), ('series'),
        ('series_tag'), ('signed_out'), ('taken_out'), ('total')
), wanted (name, privilege) AS (
    SELECT name, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) FROM tables
    UNION ALL
    VALUES ('migrations', 'SELECT'), ('lock_salt', 'SELECT')
), books AS (
    SELECT oid FROM pg_namespace WHERE nspname = 'spendflush'
)
SELECT coalesce(array_agg(lacking ORDER BY lacking), '{}'), clock_timestamp()
FROM (
    SELECT 'USAGE on schema spendflush' AS lacking FROM books WHERE NOT has_schema_privilege(oid, 'USAGE')
    UNION ALL
    SELECT string_agg(w.privilege, ', ' ORDER BY w.privilege) || ' on spendflush.' || w.name
    FROM books
    JOIN pg_class c ON c.relnamespace = books.oid
    JOIN wanted w ON w.name = c.relname
    WHERE NOT has_table_privilege(c.oid, w.privilege)
    GROUP BY w.name
) AS l
