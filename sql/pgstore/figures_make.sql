-- Makes the figures of a day.
-- $1 day
WITH by_series AS MATERIALIZED (
    SELECT series, {{each "sum(%) AS %"}}
    FROM spendflush.rollup
    WHERE day = $1::date
    GROUP BY series
), counted AS (
    SELECT v.kind, v.name, v.team_id, {{each "b.%"}}
    FROM by_series b
    JOIN spendflush.series s ON s.key = b.series
    CROSS JOIN LATERAL (VALUES (0, '', ''), (2, s.team_id, ''), (3, s.api_key, ''), (4, s.user_id, ''), (5, s.end_user_id, ''),
        (6, s.organization_id, ''), (7, s.agent_id, ''), (8, s.model, ''), (9, s.model_group, ''), (10, s.custom_llm_provider, ''),
        (11, s.mcp_namespaced_tool_name, ''), (12, s.endpoint, ''), (14, s.user_id, s.team_id)) AS v (kind, name, team_id)
    WHERE v.kind <> 14 OR v.name <> '' AND v.team_id <> ''
    UNION ALL
    SELECT 13, coalesce(g.tag, ''), '', {{each "b.%"}}
    FROM by_series b
    LEFT JOIN spendflush.series_tag g ON g.series = b.series
)
INSERT INTO spendflush.figure (day, kind, name, team_id, {{each "%"}})
SELECT $1::date, kind, name, team_id, {{each "sum(%)"}}
FROM counted
GROUP BY kind, name, team_id
ORDER BY kind, name, team_id
