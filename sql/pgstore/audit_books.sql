-- The sums of all books, each as its place, its book and its counters. 'producers' knows only requests and amounts.
-- $1 the days whose rollup rows are read, NULL for all, $2 those whose figures are
SELECT place, book, trim_scale(spend)::text, {{whole "%::text"}}
FROM (
    SELECT 'control' AS place, book, {{each "sum(%) AS %"}}
    FROM spendflush.control
    GROUP BY book
    UNION ALL
    SELECT 'quarantine', book, {{each "sum(%)"}}
    FROM spendflush.quarantine
    WHERE kind = 'row' AND state <> 'applied'
    GROUP BY book
    UNION ALL
    SELECT 'quarantine', 'conflict', {{each "coalesce(sum(%), 0)"}}
    FROM spendflush.quarantine
    WHERE kind = 'conflict' AND state <> 'applied'
    UNION ALL
    SELECT 'rows', coalesce(e.entity_type, 'unknown'), {{each "sum(%)"}}
    FROM spendflush.total t
    LEFT JOIN spendflush.entity e ON e.key = t.entity
    GROUP BY e.entity_type
    UNION ALL
    SELECT 'rows', 'rollup', {{each "coalesce(sum(%), 0)"}}
    FROM (
        SELECT {{each "%"}} FROM spendflush.rollup WHERE $1::date[] IS NULL OR day = ANY ($1::date[])
        UNION ALL
        SELECT {{each "%"}} FROM spendflush.figure WHERE kind = 0 AND day = ANY ($2::date[])
    ) AS rollups
) AS sums
