-- The sums of all books, each as its place, its book and its counters. 'producers' knows only requests and amounts.
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
    FROM spendflush.rollup
) AS sums
