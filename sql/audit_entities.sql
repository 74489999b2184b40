-- Entities whose total isn't the sum of their rollups, the first $1 of them, and how many there are.
WITH by_series AS (
    SELECT series, sum(spend) AS spend, sum(successful_requests) AS successful_requests, sum(failed_requests) AS failed_requests,
        sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
        sum(cache_read_input_tokens) AS cache_read_input_tokens, sum(cache_creation_input_tokens) AS cache_creation_input_tokens
    FROM spendflush.rollup
    GROUP BY series
), by_entity AS (
    SELECT f.entity_type, f.entity_id, f.entity_team_id AS team_id, sum(spend) AS spend,
        sum(successful_requests) AS successful_requests, sum(failed_requests) AS failed_requests,
        sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
        sum(cache_read_input_tokens) AS cache_read_input_tokens, sum(cache_creation_input_tokens) AS cache_creation_input_tokens
    FROM by_series b
    JOIN spendflush.series_entity f ON f.series = b.series
    GROUP BY f.entity_type, f.entity_id, f.entity_team_id
), totals AS (
    SELECT e.entity_type, e.entity_id, e.team_id, t.spend, t.successful_requests, t.failed_requests, t.prompt_tokens,
        t.completion_tokens, t.cache_read_input_tokens, t.cache_creation_input_tokens
    FROM spendflush.total t
    JOIN spendflush.entity e ON e.key = t.entity
)
SELECT entity_type, entity_id, team_id, coalesce(trim_scale(t.spend)::text, 'none'), coalesce(trim_scale(r.spend)::text, 'none'),
    coalesce((t.successful_requests + t.failed_requests)::text, 'none'),
    coalesce((r.successful_requests + r.failed_requests)::text, 'none'),
    count(*) OVER ()
FROM totals t
FULL JOIN by_entity r USING (entity_type, entity_id, team_id)
WHERE (t.spend, t.successful_requests, t.failed_requests, t.prompt_tokens, t.completion_tokens, t.cache_read_input_tokens,
        t.cache_creation_input_tokens)
    IS DISTINCT FROM (r.spend, r.successful_requests, r.failed_requests, r.prompt_tokens, r.completion_tokens,
        r.cache_read_input_tokens, r.cache_creation_input_tokens)
ORDER BY entity_type, entity_id COLLATE "C", team_id COLLATE "C"
LIMIT $1
