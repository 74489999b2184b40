-- Every batch is whole in itself: totals are kept for an entity in a shard, so that the shards never meet on a row, and
-- marks know what they stand for by a digest.

-- +goose Up

ALTER TABLE spendflush.producers DROP COLUMN shards, DROP COLUMN seal, DROP COLUMN whole;
-- What batches the mark stands for, see spendflush.Digest: that of the batch at the mark, that of the batch before the
-- last claim, and the beginnings of those of the last batches.
ALTER TABLE spendflush.producers
    ADD COLUMN prior_digest uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    ADD COLUMN digest uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    ADD COLUMN recent bytea NOT NULL DEFAULT '';
ALTER TABLE spendflush.producers ALTER COLUMN prior_digest DROP DEFAULT, ALTER COLUMN digest DROP DEFAULT,
    ALTER COLUMN recent DROP DEFAULT;
ALTER TABLE spendflush.producers ALTER COLUMN recent SET STORAGE PLAIN; -- it is like noise: to compress it is in vain

-- What the marks had that were pruned.
CREATE TABLE spendflush.pruned_marks (
    shard          smallint       PRIMARY KEY,
    marks          bigint         NOT NULL, -- how many there were
    horizon        timestamptz    NOT NULL, -- producers born before it that have no mark may have had one; '-infinity': none
    updates        bigint         NOT NULL, -- booked
    amount         numeric(38,12) NOT NULL,
    sealed_updates bigint         NOT NULL, -- sealed by the producers, what was lost included
    sealed_amount  numeric(38,12) NOT NULL
);
INSERT INTO spendflush.pruned_marks (shard, marks, horizon, updates, amount, sealed_updates, sealed_amount)
SELECT shard, sequence, seen_at, updates, amount, sealed_updates, sealed_amount
FROM spendflush.producers WHERE producer = '00000000-0000-0000-0000-000000000000';
DELETE FROM spendflush.producers WHERE producer = '00000000-0000-0000-0000-000000000000';

-- Its bytes are in quarantine: the producer need not keep them.
ALTER TABLE spendflush.lost_batches ADD COLUMN quarantined boolean NOT NULL DEFAULT false;

-- It can't be claimed: its process was cloned or put back, and another batch of its producer may have its place.
ALTER TABLE spendflush.quarantine ADD COLUMN unclaimed boolean NOT NULL DEFAULT false;

-- Sums over all tenants of a shard: they must not overflow where no single row does.
ALTER TABLE spendflush.control
    ALTER COLUMN failed_requests TYPE numeric(38),
    ALTER COLUMN cache_creation_input_tokens TYPE numeric(38),
    ALTER COLUMN cache_read_input_tokens TYPE numeric(38),
    ALTER COLUMN successful_requests TYPE numeric(38),
    ALTER COLUMN prompt_tokens TYPE numeric(38),
    ALTER COLUMN completion_tokens TYPE numeric(38),
    ALTER COLUMN spend TYPE numeric(50,12);

DROP VIEW spendflush.spend;
ALTER TABLE spendflush.total ADD COLUMN shard smallint NOT NULL DEFAULT 0;
ALTER TABLE spendflush.total ALTER COLUMN shard DROP DEFAULT;
ALTER TABLE spendflush.total DROP CONSTRAINT total_pkey;
ALTER TABLE spendflush.total ADD PRIMARY KEY (entity, shard);

-- Conditions on the names, and joins by them, reach the index of entity: nothing is grouped here, each entity's few rows are
-- added up by themselves. Sums have no bound of 64 bits.
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
FROM spendflush.entity e
CROSS JOIN LATERAL (
    SELECT
        sum(t.spend)::numeric(50,12) AS spend,
        sum(t.successful_requests) AS successful_requests,
        sum(t.failed_requests) AS failed_requests,
        sum(t.prompt_tokens) AS prompt_tokens,
        sum(t.completion_tokens) AS completion_tokens,
        sum(t.cache_read_input_tokens) AS cache_read_input_tokens,
        sum(t.cache_creation_input_tokens) AS cache_creation_input_tokens,
        max(t.updated_at) AS updated_at
    FROM spendflush.total t
    WHERE t.entity = e.key
    HAVING count(*) > 0
) AS t;

DROP VIEW spendflush.daily_spend;
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

-- A linear fingerprint of the rollup rows of each day, made from what flushes add; see package sql. By it the audit
-- finds what was moved between hours, days or series with all sums unchanged.
CREATE TABLE spendflush.day_fingerprint (
    shard       smallint    NOT NULL,
    day         date        NOT NULL,
    fingerprint numeric(39) NOT NULL, -- modulo 2^128
    PRIMARY KEY (shard, day)
) WITH (fillfactor = 50);
-- Days whose rows were there before fingerprints were kept are not checked: they have rows under shard -1.
INSERT INTO spendflush.day_fingerprint (shard, day, fingerprint) SELECT DISTINCT -1, day, 0 FROM spendflush.rollup;

-- A batch that was passed, and lies in quarantine, is looked up by its name.
CREATE INDEX quarantine_producer ON spendflush.quarantine (producer, shard, sequence) WHERE kind = 'batch';

-- Corrects one rollup row by hand, and with it all books, so that they go on adding up: the totals, the control sums, the
-- claims and the fingerprint have the correction under the shard -2, which no instance has. docs/runbook.md says when.

-- +goose StatementBegin
CREATE FUNCTION spendflush.correct(
    series uuid, day date, hour integer, spend numeric DEFAULT 0, successful_requests bigint DEFAULT 0,
    failed_requests bigint DEFAULT 0, prompt_tokens bigint DEFAULT 0, completion_tokens bigint DEFAULT 0,
    cache_read_input_tokens bigint DEFAULT 0, cache_creation_input_tokens bigint DEFAULT 0
) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    modulus CONSTANT numeric := 340282366920938463463374607431768211456;
    name    bytea;
    sums    numeric[];
    print   numeric := 0;
BEGIN
    IF correct.hour NOT BETWEEN 0 AND 23 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('hour is %s; allowed are 0 to 23, of the day in UTC', correct.hour);
    END IF;
    IF correct.spend <> round(correct.spend, 12) THEN
        RAISE invalid_parameter_value USING MESSAGE = 'spend has more than 12 decimals';
    END IF;
    IF EXISTS (SELECT FROM spendflush.series_entity f WHERE f.series = correct.series AND NOT EXISTS (
        SELECT FROM spendflush.entity e
        WHERE e.entity_type = f.entity_type AND e.entity_id = f.entity_id AND e.team_id = f.entity_team_id
    )) THEN
        RAISE foreign_key_violation USING MESSAGE = 'an entity of the series has no row in spendflush.entity';
    END IF;

    INSERT INTO spendflush.control AS t (shard, book, spend, successful_requests, failed_requests, prompt_tokens,
        completion_tokens, cache_read_input_tokens, cache_creation_input_tokens)
    SELECT -2, b.book, b.n * correct.spend, b.n * correct.successful_requests, b.n * correct.failed_requests,
        b.n * correct.prompt_tokens, b.n * correct.completion_tokens, b.n * correct.cache_read_input_tokens,
        b.n * correct.cache_creation_input_tokens
    FROM (
        SELECT 'rollup' AS book, 1::numeric AS n
        UNION ALL
        SELECT f.entity_type, count(*)::numeric FROM spendflush.series_entity f WHERE f.series = correct.series GROUP BY f.entity_type
    ) AS b
    ORDER BY b.book
    ON CONFLICT (shard, book) DO UPDATE SET
        spend = t.spend + excluded.spend,
        successful_requests = t.successful_requests + excluded.successful_requests,
        failed_requests = t.failed_requests + excluded.failed_requests,
        prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = t.completion_tokens + excluded.completion_tokens,
        cache_read_input_tokens = t.cache_read_input_tokens + excluded.cache_read_input_tokens,
        cache_creation_input_tokens = t.cache_creation_input_tokens + excluded.cache_creation_input_tokens;

    INSERT INTO spendflush.total AS t (entity, shard, spend, successful_requests, failed_requests, prompt_tokens,
        completion_tokens, cache_read_input_tokens, cache_creation_input_tokens, updated_at)
    SELECT e.key, -2, correct.spend, correct.successful_requests, correct.failed_requests, correct.prompt_tokens,
        correct.completion_tokens, correct.cache_read_input_tokens, correct.cache_creation_input_tokens, now()
    FROM spendflush.series_entity f
    JOIN spendflush.entity e ON e.entity_type = f.entity_type AND e.entity_id = f.entity_id AND e.team_id = f.entity_team_id
    WHERE f.series = correct.series
    ORDER BY e.key
    ON CONFLICT (entity, shard) DO UPDATE SET
        spend = t.spend + excluded.spend,
        successful_requests = t.successful_requests + excluded.successful_requests,
        failed_requests = t.failed_requests + excluded.failed_requests,
        prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = t.completion_tokens + excluded.completion_tokens,
        cache_read_input_tokens = t.cache_read_input_tokens + excluded.cache_read_input_tokens,
        cache_creation_input_tokens = t.cache_creation_input_tokens + excluded.cache_creation_input_tokens,
        updated_at = excluded.updated_at;

    INSERT INTO spendflush.rollup AS t (day, hour, series, spend, successful_requests, failed_requests, prompt_tokens,
        completion_tokens, cache_read_input_tokens, cache_creation_input_tokens)
    VALUES (correct.day, correct.hour, correct.series, correct.spend, correct.successful_requests, correct.failed_requests,
        correct.prompt_tokens, correct.completion_tokens, correct.cache_read_input_tokens, correct.cache_creation_input_tokens)
    ON CONFLICT (day, hour, series) DO UPDATE SET
        spend = t.spend + excluded.spend,
        successful_requests = t.successful_requests + excluded.successful_requests,
        failed_requests = t.failed_requests + excluded.failed_requests,
        prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
        completion_tokens = t.completion_tokens + excluded.completion_tokens,
        cache_read_input_tokens = t.cache_read_input_tokens + excluded.cache_read_input_tokens,
        cache_creation_input_tokens = t.cache_creation_input_tokens + excluded.cache_creation_input_tokens;

    -- As package sql makes it, see fingerprint.go there.
    name := sha256(uuid_send(correct.series) || int2send(correct.hour::smallint));
    sums := ARRAY[correct.spend * 1000000000000, correct.successful_requests, correct.failed_requests, correct.prompt_tokens,
        correct.completion_tokens, correct.cache_read_input_tokens, correct.cache_creation_input_tokens];
    FOR i IN 0..6 LOOP
        print := print + sums[i + 1] * ('x' || encode(substr(name, 4 * i + 1, 4), 'hex'))::bit(32)::bigint;
    END LOOP;
    INSERT INTO spendflush.day_fingerprint AS t (shard, day, fingerprint)
    VALUES (-2, correct.day, mod(mod(print, modulus) + modulus, modulus))
    ON CONFLICT (shard, day) DO UPDATE SET fingerprint = mod(t.fingerprint + excluded.fingerprint, modulus);

    INSERT INTO spendflush.pruned_marks AS t (shard, marks, horizon, updates, amount, sealed_updates, sealed_amount)
    VALUES (-2, 0, '-infinity', correct.successful_requests + correct.failed_requests, correct.spend,
        correct.successful_requests + correct.failed_requests, correct.spend)
    ON CONFLICT (shard) DO UPDATE SET
        updates = t.updates + excluded.updates,
        amount = t.amount + excluded.amount,
        sealed_updates = t.sealed_updates + excluded.sealed_updates,
        sealed_amount = t.sealed_amount + excluded.sealed_amount;
END
$$;
-- +goose StatementEnd

-- What triggers call is looked up where no other role can have put anything.
ALTER FUNCTION spendflush.check_entity() SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION spendflush.check_series() SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION spendflush.keep_tags() SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION spendflush.correct(uuid, date, integer, numeric, bigint, bigint, bigint, bigint, bigint, bigint)
    SET search_path = pg_catalog, pg_temp;

-- +goose Down

ALTER FUNCTION spendflush.check_entity() RESET search_path;
ALTER FUNCTION spendflush.check_series() RESET search_path;
ALTER FUNCTION spendflush.keep_tags() RESET search_path;

DROP FUNCTION spendflush.correct(uuid, date, integer, numeric, bigint, bigint, bigint, bigint, bigint, bigint);
DROP INDEX spendflush.quarantine_producer;
DROP TABLE spendflush.day_fingerprint;
DROP VIEW spendflush.spend, spendflush.daily_spend;
CREATE TABLE spendflush.total_before AS
SELECT entity, sum(failed_requests)::bigint AS failed_requests,
    sum(cache_creation_input_tokens)::bigint AS cache_creation_input_tokens,
    sum(cache_read_input_tokens)::bigint AS cache_read_input_tokens, sum(successful_requests)::bigint AS successful_requests,
    sum(prompt_tokens)::bigint AS prompt_tokens, sum(completion_tokens)::bigint AS completion_tokens,
    max(updated_at) AS updated_at, sum(spend)::numeric(38,12) AS spend
FROM spendflush.total GROUP BY entity;
TRUNCATE spendflush.total;
ALTER TABLE spendflush.total DROP CONSTRAINT total_pkey;
ALTER TABLE spendflush.total DROP COLUMN shard;
ALTER TABLE spendflush.total ADD PRIMARY KEY (entity);
INSERT INTO spendflush.total (entity, failed_requests, cache_creation_input_tokens, cache_read_input_tokens,
    successful_requests, prompt_tokens, completion_tokens, updated_at, spend)
SELECT entity, failed_requests, cache_creation_input_tokens, cache_read_input_tokens, successful_requests, prompt_tokens,
    completion_tokens, updated_at, spend FROM spendflush.total_before;
DROP TABLE spendflush.total_before;
CREATE VIEW spendflush.spend AS
SELECT e.entity_type, e.entity_id, e.team_id, t.spend, t.successful_requests + t.failed_requests AS api_requests,
    t.successful_requests, t.failed_requests, t.prompt_tokens, t.completion_tokens, t.cache_read_input_tokens,
    t.cache_creation_input_tokens, t.updated_at
FROM spendflush.total t
JOIN spendflush.entity e ON e.key = t.entity;
CREATE VIEW spendflush.daily_spend AS
SELECT r.day AS date, f.entity_type, f.entity_id, f.entity_team_id AS team_id, f.api_key, f.model, f.model_group,
    f.custom_llm_provider, f.mcp_namespaced_tool_name, f.endpoint, sum(r.spend)::numeric(38,12) AS spend,
    sum(r.successful_requests + r.failed_requests)::bigint AS api_requests,
    sum(r.successful_requests)::bigint AS successful_requests, sum(r.failed_requests)::bigint AS failed_requests,
    sum(r.prompt_tokens)::bigint AS prompt_tokens, sum(r.completion_tokens)::bigint AS completion_tokens,
    sum(r.cache_read_input_tokens)::bigint AS cache_read_input_tokens,
    sum(r.cache_creation_input_tokens)::bigint AS cache_creation_input_tokens
FROM spendflush.rollup r
JOIN spendflush.series_entity f ON f.series = r.series
GROUP BY r.day, f.entity_type, f.entity_id, f.entity_team_id, f.api_key, f.model, f.model_group, f.custom_llm_provider,
    f.mcp_namespaced_tool_name, f.endpoint;
ALTER TABLE spendflush.control
    ALTER COLUMN failed_requests TYPE bigint,
    ALTER COLUMN cache_creation_input_tokens TYPE bigint,
    ALTER COLUMN cache_read_input_tokens TYPE bigint,
    ALTER COLUMN successful_requests TYPE bigint,
    ALTER COLUMN prompt_tokens TYPE bigint,
    ALTER COLUMN completion_tokens TYPE bigint,
    ALTER COLUMN spend TYPE numeric(38,12);
ALTER TABLE spendflush.quarantine DROP COLUMN unclaimed;
ALTER TABLE spendflush.lost_batches DROP COLUMN quarantined;
ALTER TABLE spendflush.producers ADD COLUMN shards smallint NOT NULL DEFAULT 1, ADD COLUMN seal bigint NOT NULL DEFAULT 0,
    ADD COLUMN whole boolean NOT NULL DEFAULT true, DROP COLUMN prior_digest, DROP COLUMN digest, DROP COLUMN recent;
INSERT INTO spendflush.producers (producer, shard, shards, first_seen, claimed_from, sequence, claims, seal, whole, updates,
    seen_at, amount, sealed_updates, sealed_amount)
SELECT '00000000-0000-0000-0000-000000000000', shard, 1, now(), 1, marks, 1, 0, true, updates, horizon, amount,
    sealed_updates, sealed_amount
FROM spendflush.pruned_marks;
DROP TABLE spendflush.pruned_marks;
