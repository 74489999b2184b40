-- What the role lacks of the rights that docs/runbook.md lists under Roles, such as "INSERT on spendflush.total". Those
-- on a partition are not needed: it is reached through its table.
WITH books AS (
    SELECT oid FROM pg_namespace WHERE nspname = 'spendflush'
), wanted AS (
    SELECT c.oid, c.relname, r.privilege
    FROM pg_class c
    JOIN books ON books.oid = c.relnamespace
    CROSS JOIN LATERAL unnest(CASE
        WHEN c.relname IN ('migrations', 'lock_salt') THEN ARRAY['SELECT']
        ELSE ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE'] END) AS r(privilege)
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
)
SELECT 'USAGE on schema spendflush' AS lacking FROM books WHERE NOT has_schema_privilege(oid, 'USAGE')
UNION ALL
SELECT string_agg(privilege, ', ' ORDER BY privilege) || ' on spendflush.' || relname
FROM wanted
WHERE NOT has_table_privilege(oid, privilege)
GROUP BY relname
ORDER BY lacking
