-- Entities whose total isn't the sum of their rollups, with what is set aside added to the side that lacks it: the first $1
-- of them, and how many there are.
-- Of what is set aside: $2 whether it is of a total, $3 types, $4 ids, $5 teams, $6 to $12 counters as decimal texts
WITH aside AS (
    SELECT u.of_total, u.entity_type, u.entity_id COLLATE "C" AS entity_id, u.team_id COLLATE "C" AS team_id,
        u.spend::numeric AS spend, u.successful_requests::numeric AS successful_requests,
        u.failed_requests::numeric AS failed_requests, u.prompt_tokens::numeric AS prompt_tokens,
        u.completion_tokens::numeric AS completion_tokens, u.cache_read_input_tokens::numeric AS cache_read_input_tokens,
        u.cache_creation_input_tokens::numeric AS cache_creation_input_tokens
    FROM unnest($2::boolean[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
            $11::text[], $12::text[])
        AS u (of_total, entity_type, entity_id, team_id, spend, successful_requests, failed_requests, prompt_tokens,
            completion_tokens, cache_read_input_tokens, cache_creation_input_tokens)
), by_series AS (
    SELECT series, sum(spend) AS spend, sum(successful_requests) AS successful_requests, sum(failed_requests) AS failed_requests,
        sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
        sum(cache_read_input_tokens) AS cache_read_input_tokens, sum(cache_creation_input_tokens) AS cache_creation_input_tokens
    FROM spendflush.rollup
    GROUP BY series
), rolled AS (
    SELECT f.entity_type, f.entity_id, f.entity_team_id AS team_id, b.spend, b.successful_requests, b.failed_requests,
        b.prompt_tokens, b.completion_tokens, b.cache_read_input_tokens, b.cache_creation_input_tokens
    FROM by_series b
    JOIN spendflush.series_entity f ON f.series = b.series
    UNION ALL
    SELECT entity_type, entity_id, team_id, spend, successful_requests, failed_requests, prompt_tokens, completion_tokens,
        cache_read_input_tokens, cache_creation_input_tokens
    FROM aside
    WHERE NOT of_total
), booked AS (
    SELECT e.entity_type, e.entity_id, e.team_id, t.spend, t.successful_requests, t.failed_requests, t.prompt_tokens,
        t.completion_tokens, t.cache_read_input_tokens, t.cache_creation_input_tokens
    FROM spendflush.total t
    JOIN spendflush.entity e ON e.key = t.entity
    UNION ALL
    SELECT entity_type, entity_id, team_id, spend, successful_requests, failed_requests, prompt_tokens, completion_tokens,
        cache_read_input_tokens, cache_creation_input_tokens
    FROM aside
    WHERE of_total
), rollups AS (
    SELECT entity_type, entity_id, team_id, sum(spend) AS spend, sum(successful_requests) AS successful_requests,
        sum(failed_requests) AS failed_requests, sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
        sum(cache_read_input_tokens) AS cache_read_input_tokens, sum(cache_creation_input_tokens) AS cache_creation_input_tokens
    FROM rolled
    GROUP BY entity_type, entity_id, team_id
), totals AS (
    SELECT entity_type, entity_id, team_id, sum(spend) AS spend, sum(successful_requests) AS successful_requests,
        sum(failed_requests) AS failed_requests, sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
        sum(cache_read_input_tokens) AS cache_read_input_tokens, sum(cache_creation_input_tokens) AS cache_creation_input_tokens
    FROM booked
    GROUP BY entity_type, entity_id, team_id
)
SELECT entity_type, entity_id, team_id, coalesce(trim_scale(t.spend)::text, 'none'), coalesce(trim_scale(r.spend)::text, 'none'),
    coalesce((t.successful_requests + t.failed_requests)::text, 'none'),
    coalesce((r.successful_requests + r.failed_requests)::text, 'none'),
    count(*) OVER ()
FROM totals t
FULL JOIN rollups r USING (entity_type, entity_id, team_id)
WHERE (t.spend, t.successful_requests, t.failed_requests, t.prompt_tokens, t.completion_tokens, t.cache_read_input_tokens,
        t.cache_creation_input_tokens)
    IS DISTINCT FROM (r.spend, r.successful_requests, r.failed_requests, r.prompt_tokens, r.completion_tokens,
        r.cache_read_input_tokens, r.cache_creation_input_tokens)
ORDER BY entity_type, entity_id COLLATE "C", team_id COLLATE "C"
LIMIT $1
