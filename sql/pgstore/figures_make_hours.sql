-- Makes the figures of the hours of a day, of some kinds. It comes after figures_make.
-- $1 day, $2 kinds
INSERT INTO spendflush.figure_hour (day, kind, hour, name, {{each "%"}})
SELECT $1::date, v.kind, r.hour, v.name, {{each "sum(r.%)"}}
FROM spendflush.rollup r
JOIN spendflush.series s ON s.key = r.series
CROSS JOIN LATERAL (VALUES (0, ''), (2, s.team_id), (6, s.organization_id), (8, s.model), (9, s.model_group), (10, s.custom_llm_provider),
    (12, s.endpoint)) AS v (kind, name)
WHERE r.day = $1::date AND v.kind = ANY ($2::smallint[])
GROUP BY v.kind, r.hour, v.name
ORDER BY v.kind, r.hour, v.name
