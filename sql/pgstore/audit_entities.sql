-- Entities whose total isn't the sum of their rollups, with what is set aside added to the side that lacks it: the first $1
-- of them, and how many there are.
-- Of what is set aside: $2 whether it is of a total, $3 types, $4 ids, $5 teams, from $6 the counters as decimal texts;
-- $13 the days whose rollup rows are read, NULL for all, $14 those whose figures are
WITH aside AS (
    SELECT u.of_total, u.entity_type, u.entity_id COLLATE "C" AS entity_id, u.team_id COLLATE "C" AS team_id,
        {{each "u.%::numeric AS %"}}
    FROM unnest($2::boolean[], $3::text[], $4::text[], $5::text[], {{texts 6}})
        AS u (of_total, entity_type, entity_id, team_id, {{each "%"}})
), by_series AS (
    SELECT series, {{each "sum(%) AS %"}}
    FROM spendflush.rollup
    WHERE $13::date[] IS NULL OR day = ANY ($13::date[])
    GROUP BY series
), figured AS (
    SELECT v.entity_type, f.name, f.team_id, {{each "sum(f.%) AS %"}}
    FROM spendflush.figure f
    JOIN (VALUES (3, 'api_key'), (4, 'user'), (5, 'end_user'), (2, 'team'), (14, 'team_member'), (6, 'organization'), (13, 'tag'), (7, 'agent'))
        AS v (kind, entity_type) ON v.kind = f.kind
    WHERE f.day = ANY ($14::date[]) AND f.name <> ''
    GROUP BY v.entity_type, f.name, f.team_id
), rolled AS (
    SELECT f.entity_type, f.entity_id, f.entity_team_id AS team_id, {{each "b.%"}}
    FROM by_series b
    JOIN spendflush.series_entity f ON f.series = b.series
    UNION ALL
    SELECT entity_type, name, team_id, {{each "%"}}
    FROM figured
    UNION ALL
    SELECT entity_type, entity_id, team_id, {{each "%"}}
    FROM aside
    WHERE NOT of_total
), booked AS (
    SELECT e.entity_type, e.entity_id, e.team_id, {{each "t.%"}}
    FROM spendflush.total t
    JOIN spendflush.entity e ON e.key = t.entity
    UNION ALL
    SELECT entity_type, entity_id, team_id, {{each "%"}}
    FROM aside
    WHERE of_total
), rollups AS (
    SELECT entity_type, entity_id, team_id, {{each "sum(%) AS %"}}
    FROM rolled
    GROUP BY entity_type, entity_id, team_id
), totals AS (
    SELECT entity_type, entity_id, team_id, {{each "sum(%) AS %"}}
    FROM booked
    GROUP BY entity_type, entity_id, team_id
)
SELECT entity_type, entity_id, team_id, coalesce(trim_scale(t.spend)::text, 'none'), coalesce(trim_scale(r.spend)::text, 'none'),
    coalesce((t.successful_requests + t.failed_requests)::text, 'none'),
    coalesce((r.successful_requests + r.failed_requests)::text, 'none'),
    count(*) OVER ()
FROM totals t
FULL JOIN rollups r USING (entity_type, entity_id, team_id)
WHERE ({{each "t.%"}})
    IS DISTINCT FROM ({{each "r.%"}})
ORDER BY entity_type, entity_id COLLATE "C", team_id COLLATE "C"
LIMIT $1
