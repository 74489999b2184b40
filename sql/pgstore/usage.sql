-- Rollups by bucket of time and by group, in that order. A bucket is a stretch of hours; hours are counted from
-- 1970-01-01 UTC. A text that isn't grouped by reads ''. As usage_whole, for reports about all, it sums the rows of each series up
-- before it joins them with their names.
-- $1 entity type, '' for every update once, $2 entity and $3 team, '' for all
-- $4 first hours of the buckets and, last, the hour behind the last bucket
-- $5 the days whose rows are read, $6 those of figures of days, $7 what to group by: 13 yes or no in the order of GroupNames
-- $8 model and $9 provider, '' for all; $10 the sum to order by before all else, '' for none; $11 how many rows, NULL for all
-- $12 the days of figures of hours, $13 the kind of all figures, $14 name and $15 team, '' for all, $16 whether a name of '' is left out;
-- $17 which groups read the name, and $18 the team
WITH counted AS (
    SELECT s.key AS series, '' AS entity_id, '' AS entity_team_id, s.api_key, s.user_id, s.end_user_id, s.team_id,
        s.organization_id, s.agent_id, s.model, s.model_group, s.custom_llm_provider, s.mcp_namespaced_tool_name, s.endpoint
    FROM spendflush.series s
    WHERE $1::text = ''
        AND ($8::text = '' OR s.model = $8::text)
        AND ($9::text = '' OR s.custom_llm_provider = $9::text)
    UNION ALL
    SELECT f.series, f.entity_id, f.entity_team_id, f.api_key, f.user_id, f.end_user_id, f.team_id,
        f.organization_id, f.agent_id, f.model, f.model_group, f.custom_llm_provider, f.mcp_namespaced_tool_name, f.endpoint
    FROM spendflush.series_entity f
    WHERE f.entity_type = $1::text
        AND ($2::text = '' OR f.entity_id = $2::text)
        AND ($3::text = '' OR f.entity_team_id = $3::text)
        AND ($8::text = '' OR f.model = $8::text)
        AND ($9::text = '' OR f.custom_llm_provider = $9::text)
), r AS (
    SELECT width_bucket((day - date '1970-01-01') * 24 + hour, $4::integer[]) AS bucket, series,
        {{if .}}{{each "sum(%) AS %"}}{{else}}{{each "%"}}{{end}}
    FROM spendflush.rollup
    WHERE day = ANY ($5::date[])
        AND (day - date '1970-01-01') * 24 + hour >= ($4::integer[])[1]
        AND (day - date '1970-01-01') * 24 + hour < ($4::integer[])[cardinality($4::integer[])]
    {{if .}}GROUP BY bucket, series{{end}}
), figures AS (
    SELECT width_bucket((day - date '1970-01-01') * 24, $4::integer[]) AS bucket, name, team_id, {{each "%"}}
    FROM spendflush.figure
    WHERE kind = $13::smallint AND day = ANY ($6::date[])
    UNION ALL
    SELECT width_bucket((day - date '1970-01-01') * 24 + hour, $4::integer[]), name, '', {{each "%"}}
    FROM spendflush.figure_hour
    WHERE kind = $13::smallint AND day = ANY ($12::date[])
        AND (day - date '1970-01-01') * 24 + hour >= ($4::integer[])[1]
        AND (day - date '1970-01-01') * 24 + hour < ($4::integer[])[cardinality($4::integer[])]
)
SELECT bucket, names, sum(spend)::text, sum(successful_requests::numeric + failed_requests)::text, {{whole "sum(%)::text"}}
FROM (
    SELECT r.bucket,
        ARRAY[
            CASE WHEN ($7::boolean[])[1] THEN c.entity_id ELSE '' END,
            CASE WHEN ($7::boolean[])[2] THEN c.team_id ELSE '' END,
            CASE WHEN ($7::boolean[])[3] THEN c.api_key ELSE '' END,
            CASE WHEN ($7::boolean[])[4] THEN c.user_id ELSE '' END,
            CASE WHEN ($7::boolean[])[5] THEN c.end_user_id ELSE '' END,
            CASE WHEN ($7::boolean[])[6] THEN c.organization_id ELSE '' END,
            CASE WHEN ($7::boolean[])[7] THEN c.agent_id ELSE '' END,
            CASE WHEN ($7::boolean[])[8] THEN c.model ELSE '' END,
            CASE WHEN ($7::boolean[])[9] THEN c.model_group ELSE '' END,
            CASE WHEN ($7::boolean[])[10] THEN c.custom_llm_provider ELSE '' END,
            CASE WHEN ($7::boolean[])[11] THEN c.mcp_namespaced_tool_name ELSE '' END,
            CASE WHEN ($7::boolean[])[12] THEN c.endpoint ELSE '' END,
            coalesce(g.tag, '')
        ] COLLATE "C" AS names,
        {{each "r.%"}}
    FROM counted c
    JOIN r ON r.series = c.series
    LEFT JOIN spendflush.series_tag g ON ($7::boolean[])[13] AND g.series = c.series
    UNION ALL
    SELECT bucket,
        ARRAY[
            CASE WHEN ($17::boolean[])[1] THEN name WHEN ($18::boolean[])[1] THEN team_id ELSE '' END,
            CASE WHEN ($17::boolean[])[2] THEN name WHEN ($18::boolean[])[2] THEN team_id ELSE '' END,
            CASE WHEN ($17::boolean[])[3] THEN name WHEN ($18::boolean[])[3] THEN team_id ELSE '' END,
            CASE WHEN ($17::boolean[])[4] THEN name WHEN ($18::boolean[])[4] THEN team_id ELSE '' END,
            CASE WHEN ($17::boolean[])[5] THEN name WHEN ($18::boolean[])[5] THEN team_id ELSE '' END,
            CASE WHEN ($17::boolean[])[6] THEN name WHEN ($18::boolean[])[6] THEN team_id ELSE '' END,
            CASE WHEN ($17::boolean[])[7] THEN name WHEN ($18::boolean[])[7] THEN team_id ELSE '' END,
            CASE WHEN ($17::boolean[])[8] THEN name WHEN ($18::boolean[])[8] THEN team_id ELSE '' END,
            CASE WHEN ($17::boolean[])[9] THEN name WHEN ($18::boolean[])[9] THEN team_id ELSE '' END,
            CASE WHEN ($17::boolean[])[10] THEN name WHEN ($18::boolean[])[10] THEN team_id ELSE '' END,
            CASE WHEN ($17::boolean[])[11] THEN name WHEN ($18::boolean[])[11] THEN team_id ELSE '' END,
            CASE WHEN ($17::boolean[])[12] THEN name WHEN ($18::boolean[])[12] THEN team_id ELSE '' END,
            CASE WHEN ($17::boolean[])[13] THEN name WHEN ($18::boolean[])[13] THEN team_id ELSE '' END
        ] COLLATE "C",
        {{each "%"}}
    FROM figures
    WHERE ($14::text = '' OR name = $14::text) AND ($15::text = '' OR team_id = $15::text) AND NOT ($16::boolean AND name = '')
) AS all_rows
GROUP BY bucket, names
ORDER BY
    CASE $10::text
        WHEN 'spend' THEN sum(spend)
        WHEN 'api_requests' THEN sum(successful_requests::numeric + failed_requests)
        WHEN 'prompt_tokens' THEN sum(prompt_tokens)
        WHEN 'completion_tokens' THEN sum(completion_tokens)
    END DESC,
    bucket, names
LIMIT $11::integer
