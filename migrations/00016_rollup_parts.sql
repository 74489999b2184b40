-- Rollups lie in parts by day. Those that there were are the first one.

-- +goose Up

DROP TRIGGER rollup_has_series ON spendflush.rollup;
ALTER TABLE spendflush.rollup RENAME TO rollup_first;
ALTER TABLE spendflush.rollup_first RENAME CONSTRAINT rollup_pkey TO rollup_first_pkey;
ALTER INDEX spendflush.rollup_series RENAME TO rollup_first_series;

CREATE TABLE spendflush.rollup (
    series                      uuid           NOT NULL, -- series.key
    day                         date           NOT NULL, -- UTC
    hour                        smallint       NOT NULL, -- of the day, 0 to 23
    failed_requests             bigint         NOT NULL,
    cache_creation_input_tokens bigint         NOT NULL,
    cache_read_input_tokens     bigint         NOT NULL,
    successful_requests         bigint         NOT NULL,
    prompt_tokens               bigint         NOT NULL,
    completion_tokens           bigint         NOT NULL,
    spend                       numeric(38,12) NOT NULL,
    PRIMARY KEY (day, hour, series)
) PARTITION BY RANGE (day);

CREATE TRIGGER rollup_has_series AFTER INSERT ON spendflush.rollup
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION spendflush.check_series();

-- It names the table that is new. Whoever may read it still may.
CREATE OR REPLACE VIEW spendflush.daily_spend AS
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
    sum(r.spend)::numeric(50,12) AS spend,
    sum(r.successful_requests::numeric + r.failed_requests) AS api_requests,
    sum(r.successful_requests) AS successful_requests,
    sum(r.failed_requests) AS failed_requests,
    sum(r.prompt_tokens) AS prompt_tokens,
    sum(r.completion_tokens) AS completion_tokens,
    sum(r.cache_read_input_tokens) AS cache_read_input_tokens,
    sum(r.cache_creation_input_tokens) AS cache_creation_input_tokens
FROM spendflush.rollup r
JOIN spendflush.series_entity f ON f.series = r.series
GROUP BY
    r.day, f.entity_type, f.entity_id, f.entity_team_id, f.api_key, f.model, f.model_group, f.custom_llm_provider,
    f.mcp_namespaced_tool_name, f.endpoint;

-- Whoever had rights to the table has them still. Those to a part aren't asked for where the table is named.

-- +goose StatementBegin
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN
        SELECT a.grantee, a.is_grantable, string_agg(a.privilege_type, ', ') AS privileges
        FROM pg_class c, aclexplode(c.relacl) AS a
        WHERE c.oid = 'spendflush.rollup_first'::regclass AND a.grantee <> c.relowner
        GROUP BY a.grantee, a.is_grantable
    LOOP
        EXECUTE format('GRANT %s ON spendflush.rollup TO %s%s', r.privileges,
            CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.grantee)) END,
            CASE WHEN r.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
    IF EXISTS (SELECT FROM spendflush.rollup_parts) THEN
        EXECUTE format('ALTER TABLE spendflush.rollup ATTACH PARTITION spendflush.rollup_first FOR VALUES FROM (MINVALUE) TO (%L)',
            (SELECT to_day FROM spendflush.rollup_parts));
        ALTER TABLE spendflush.rollup_first DROP CONSTRAINT rollup_first;
    ELSE
        DROP TABLE spendflush.rollup_first;
    END IF;
END
$$;
-- +goose StatementEnd

-- Makes the part that a day lies in, unless there is one, and says whether it has. It has the rights of the owner, so that instances
-- need none to make tables. Nothing that reads or writes waits for it. Those who make a part at the same time wait for each other.

-- +goose StatementBegin
CREATE FUNCTION spendflush.make_rollup_part(day date) RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    part name := 'rollup_' || to_char(make_rollup_part.day, 'YYYYMMDD');
BEGIN
    IF NOT isfinite(make_rollup_part.day) OR make_rollup_part.day NOT BETWEEN date '1970-01-01' AND date '9999-12-31' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('day is %s; allowed are days from 1970 to 9999', make_rollup_part.day);
    END IF;
    IF EXISTS (SELECT FROM spendflush.rollup_parts p WHERE make_rollup_part.day >= p.from_day AND make_rollup_part.day < p.to_day) THEN
        RETURN false;
    END IF;
    LOCK TABLE spendflush.rollup_parts IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM spendflush.rollup_parts p WHERE make_rollup_part.day >= p.from_day AND make_rollup_part.day < p.to_day) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE spendflush.%I (LIKE spendflush.rollup INCLUDING ALL, CONSTRAINT rollup_finite CHECK (spend < 1e50),
        CONSTRAINT part CHECK (day >= %L AND day < %L)) WITH (fillfactor = 50)', part, make_rollup_part.day, make_rollup_part.day + 1);
    EXECUTE format('CREATE INDEX %I ON spendflush.%I (series)', part || '_series', part);
    EXECUTE format('ALTER TABLE spendflush.rollup ATTACH PARTITION spendflush.%I FOR VALUES FROM (%L) TO (%L)',
        part, make_rollup_part.day, make_rollup_part.day + 1);
    EXECUTE format('ALTER TABLE spendflush.%I DROP CONSTRAINT part', part);
    INSERT INTO spendflush.rollup_parts (part, from_day, to_day) VALUES (part, make_rollup_part.day, make_rollup_part.day + 1);
    RETURN true;
END
$$;
-- +goose StatementEnd

-- Programs of before, which make none, go on meanwhile.
SELECT count(spendflush.make_rollup_part((now() AT TIME ZONE 'UTC')::date + ahead)) FROM generate_series(-1, 3) AS ahead;

-- A correction makes the part that it needs.

-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE replace(pg_get_functiondef('spendflush.correct'::regproc), E'\n    INSERT INTO spendflush.rollup AS t (',
        E'\n    PERFORM spendflush.make_rollup_part(correct.day);\n    INSERT INTO spendflush.rollup AS t (');
END
$$;
-- +goose StatementEnd

-- Each update once, with all that it was of, by the hour.
CREATE VIEW spendflush.hourly_usage AS
SELECT
    r.day AS date,
    r.hour,
    s.api_key,
    s.user_id,
    s.end_user_id,
    s.team_id,
    s.organization_id,
    s.agent_id,
    s.model,
    s.model_group,
    s.custom_llm_provider,
    s.mcp_namespaced_tool_name,
    s.endpoint,
    s.tags,
    r.spend,
    r.successful_requests::numeric + r.failed_requests AS api_requests,
    r.successful_requests,
    r.failed_requests,
    r.prompt_tokens,
    r.completion_tokens,
    r.cache_read_input_tokens,
    r.cache_creation_input_tokens
FROM spendflush.rollup r
JOIN spendflush.series s ON s.key = r.series;

-- Each update once, by the day.
CREATE VIEW spendflush.daily_usage AS
SELECT
    r.day AS date,
    s.api_key,
    s.user_id,
    s.end_user_id,
    s.team_id,
    s.organization_id,
    s.agent_id,
    s.model,
    s.model_group,
    s.custom_llm_provider,
    s.mcp_namespaced_tool_name,
    s.endpoint,
    s.tags,
    sum(r.spend)::numeric(50,12) AS spend,
    sum(r.successful_requests::numeric + r.failed_requests) AS api_requests,
    sum(r.successful_requests) AS successful_requests,
    sum(r.failed_requests) AS failed_requests,
    sum(r.prompt_tokens) AS prompt_tokens,
    sum(r.completion_tokens) AS completion_tokens,
    sum(r.cache_read_input_tokens) AS cache_read_input_tokens,
    sum(r.cache_creation_input_tokens) AS cache_creation_input_tokens
FROM spendflush.rollup r
JOIN spendflush.series s ON s.key = r.series
GROUP BY r.day, s.key;

-- +goose Down

-- All parts become one table again, which takes its time with many rows.
DROP VIEW spendflush.daily_usage, spendflush.hourly_usage;

-- +goose StatementBegin
DO $$
BEGIN
    EXECUTE replace(pg_get_functiondef('spendflush.correct'::regproc), E'\n    PERFORM spendflush.make_rollup_part(correct.day);', '');
END
$$;
-- +goose StatementEnd

DROP FUNCTION spendflush.make_rollup_part(date);
ALTER TABLE spendflush.rollup RENAME TO rollup_in_parts;
ALTER TABLE spendflush.rollup_in_parts RENAME CONSTRAINT rollup_pkey TO rollup_in_parts_pkey;
CREATE TABLE spendflush.rollup (
    series                      uuid           NOT NULL,
    day                         date           NOT NULL,
    hour                        smallint       NOT NULL,
    failed_requests             bigint         NOT NULL,
    cache_creation_input_tokens bigint         NOT NULL,
    cache_read_input_tokens     bigint         NOT NULL,
    successful_requests         bigint         NOT NULL,
    prompt_tokens               bigint         NOT NULL,
    completion_tokens           bigint         NOT NULL,
    spend                       numeric(38,12) NOT NULL,
    PRIMARY KEY (day, hour, series),
    CONSTRAINT rollup_finite CHECK (spend < 1e50)
) WITH (fillfactor = 50);
INSERT INTO spendflush.rollup (series, day, hour, failed_requests, cache_creation_input_tokens, cache_read_input_tokens,
    successful_requests, prompt_tokens, completion_tokens, spend)
SELECT series, day, hour, failed_requests, cache_creation_input_tokens, cache_read_input_tokens,
    successful_requests, prompt_tokens, completion_tokens, spend
FROM spendflush.rollup_in_parts;
CREATE INDEX rollup_series ON spendflush.rollup (series, day);
CREATE TRIGGER rollup_has_series AFTER INSERT ON spendflush.rollup
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION spendflush.check_series();

-- +goose StatementBegin
DO $$
DECLARE
    r record;
BEGIN
    FOR r IN
        SELECT a.grantee, a.is_grantable, string_agg(a.privilege_type, ', ') AS privileges
        FROM pg_class c, aclexplode(c.relacl) AS a
        WHERE c.oid = 'spendflush.rollup_in_parts'::regclass AND a.grantee <> c.relowner
        GROUP BY a.grantee, a.is_grantable
    LOOP
        EXECUTE format('GRANT %s ON spendflush.rollup TO %s%s', r.privileges,
            CASE r.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.grantee)) END,
            CASE WHEN r.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END
$$;
-- +goose StatementEnd

CREATE OR REPLACE VIEW spendflush.daily_spend AS
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
    sum(r.spend)::numeric(50,12) AS spend,
    sum(r.successful_requests::numeric + r.failed_requests) AS api_requests,
    sum(r.successful_requests) AS successful_requests,
    sum(r.failed_requests) AS failed_requests,
    sum(r.prompt_tokens) AS prompt_tokens,
    sum(r.completion_tokens) AS completion_tokens,
    sum(r.cache_read_input_tokens) AS cache_read_input_tokens,
    sum(r.cache_creation_input_tokens) AS cache_creation_input_tokens
FROM spendflush.rollup r
JOIN spendflush.series_entity f ON f.series = r.series
GROUP BY
    r.day, f.entity_type, f.entity_id, f.entity_team_id, f.api_key, f.model, f.model_group, f.custom_llm_provider,
    f.mcp_namespaced_tool_name, f.endpoint;

DROP TABLE spendflush.rollup_in_parts;
DELETE FROM spendflush.rollup_parts;
