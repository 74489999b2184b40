-- The relations to read. Everything a condition is likely to name (entity_type, entity_id, team_id, date) is a plain
-- column or a constant below them, so that conditions reach the indexes.

-- +goose Up

CREATE VIEW spendflush.spend AS
SELECT
    e.entity_type,
    e.entity_id,
    e.team_id,
    t.spend,
    t.successful_requests + t.failed_requests AS api_requests,
    t.successful_requests,
    t.failed_requests,
    t.prompt_tokens,
    t.completion_tokens,
    t.cache_read_input_tokens,
    t.cache_creation_input_tokens,
    t.updated_at
FROM spendflush.total t
JOIN spendflush.entity e ON e.key = t.entity;

-- Whom each series counts on, one row for each entity. entity_team_id is '' but for a team_member.
CREATE VIEW spendflush.series_entity AS
SELECT s.key AS series, 'api_key'::text AS entity_type, s.api_key AS entity_id, ''::text AS entity_team_id, s.*
FROM spendflush.series s WHERE s.api_key <> ''
UNION ALL
SELECT s.key, 'user', s.user_id, '', s.* FROM spendflush.series s WHERE s.user_id <> ''
UNION ALL
SELECT s.key, 'end_user', s.end_user_id, '', s.* FROM spendflush.series s WHERE s.end_user_id <> ''
UNION ALL
SELECT s.key, 'team', s.team_id, '', s.* FROM spendflush.series s WHERE s.team_id <> ''
UNION ALL
SELECT s.key, 'team_member', s.user_id, s.team_id, s.* FROM spendflush.series s WHERE s.team_id <> '' AND s.user_id <> ''
UNION ALL
SELECT s.key, 'organization', s.organization_id, '', s.* FROM spendflush.series s WHERE s.organization_id <> ''
UNION ALL
SELECT s.key, 'tag', g.tag, '', s.* FROM spendflush.series_tag g JOIN spendflush.series s ON s.key = g.series
UNION ALL
SELECT s.key, 'agent', s.agent_id, '', s.* FROM spendflush.series s WHERE s.agent_id <> '';

CREATE VIEW spendflush.daily_spend AS
SELECT
    r.day AS date,
    f.entity_type,
    f.entity_id,
    f.entity_team_id AS team_id,
    f.api_key,
    f.model,
    f.model_group,
    f.custom_llm_provider,
    f.mcp_namespaced_tool_name,
    f.endpoint,
    sum(r.spend)::numeric(38,12) AS spend,
    sum(r.successful_requests + r.failed_requests)::bigint AS api_requests,
    sum(r.successful_requests)::bigint AS successful_requests,
    sum(r.failed_requests)::bigint AS failed_requests,
    sum(r.prompt_tokens)::bigint AS prompt_tokens,
    sum(r.completion_tokens)::bigint AS completion_tokens,
    sum(r.cache_read_input_tokens)::bigint AS cache_read_input_tokens,
    sum(r.cache_creation_input_tokens)::bigint AS cache_creation_input_tokens
FROM spendflush.rollup r
JOIN spendflush.series_entity f ON f.series = r.series
GROUP BY
    r.day, f.entity_type, f.entity_id, f.entity_team_id, f.api_key, f.model, f.model_group, f.custom_llm_provider,
    f.mcp_namespaced_tool_name, f.endpoint;

-- +goose Down

DROP VIEW spendflush.daily_spend;
DROP VIEW spendflush.series_entity;
DROP VIEW spendflush.spend;
