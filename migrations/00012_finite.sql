-- No column that is summed takes NaN or Infinity, which a sum never loses again, and which are equal to themselves: the audit
-- of books that were corrected by NaN was content.

-- +goose Up

-- NaN is above all numbers. Rows that are there aren't looked at: that would lock the largest tables for long.
ALTER TABLE spendflush.rollup ADD CONSTRAINT rollup_finite CHECK (spend < 1e50) NOT VALID;
ALTER TABLE spendflush.total ADD CONSTRAINT total_finite CHECK (spend < 1e50) NOT VALID;
ALTER TABLE spendflush.producers ADD CONSTRAINT producers_finite CHECK (amount < 1e50 AND sealed_amount < 1e50) NOT VALID;
ALTER TABLE spendflush.pruned_marks ADD CONSTRAINT pruned_marks_finite CHECK (amount < 1e50 AND sealed_amount < 1e50) NOT VALID;
ALTER TABLE spendflush.control ADD CONSTRAINT control_finite CHECK (
    spend < 1e50 AND successful_requests < 1e50 AND failed_requests < 1e50 AND prompt_tokens < 1e50
    AND completion_tokens < 1e50 AND cache_read_input_tokens < 1e50 AND cache_creation_input_tokens < 1e50
) NOT VALID;
ALTER TABLE spendflush.day_fingerprint ADD CONSTRAINT day_fingerprint_finite CHECK (fingerprint < 1e50) NOT VALID;
ALTER TABLE spendflush.quarantine ADD CONSTRAINT quarantine_finite CHECK (spend < 1e50 AND spend > -1e50) NOT VALID;
ALTER TABLE spendflush.applied_by_hand ADD CONSTRAINT applied_by_hand_finite CHECK (amount < 1e50);

-- As before, but it names what it doesn't take.

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION spendflush.correct(
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
    name_of text;
    is_null boolean;
    name    bytea;
    sums    numeric[];
    print   numeric := 0;
BEGIN
    FOR name_of, is_null IN VALUES
        ('series', correct.series IS NULL), ('day', correct.day IS NULL), ('hour', correct.hour IS NULL), ('spend', correct.spend IS NULL),
        ('successful_requests', correct.successful_requests IS NULL), ('failed_requests', correct.failed_requests IS NULL),
        ('prompt_tokens', correct.prompt_tokens IS NULL), ('completion_tokens', correct.completion_tokens IS NULL),
        ('cache_read_input_tokens', correct.cache_read_input_tokens IS NULL),
        ('cache_creation_input_tokens', correct.cache_creation_input_tokens IS NULL)
    LOOP
        IF is_null THEN
            RAISE invalid_parameter_value USING MESSAGE = format('%s is NULL; allowed are values', name_of);
        END IF;
    END LOOP;
    IF NOT isfinite(correct.day) THEN
        RAISE invalid_parameter_value USING MESSAGE = format('day is %s; allowed are days of the calendar, in UTC', correct.day);
    END IF;
    IF correct.hour NOT BETWEEN 0 AND 23 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('hour is %s; allowed are 0 to 23, of the day in UTC', correct.hour);
    END IF;
    -- NaN is above all numbers here, and is equal to itself.
    IF correct.spend >= 1e26 OR correct.spend <= -1e26 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('spend is %s; allowed are numbers between -10^26 and 10^26', correct.spend);
    END IF;
    IF correct.spend <> round(correct.spend, 12) THEN
        RAISE invalid_parameter_value USING MESSAGE = format('spend is %s; allowed are at most 12 decimals', correct.spend);
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

-- +goose Down

-- The function stays: it takes what it took before, but for what made the books useless.
ALTER TABLE spendflush.rollup DROP CONSTRAINT rollup_finite;
ALTER TABLE spendflush.total DROP CONSTRAINT total_finite;
ALTER TABLE spendflush.producers DROP CONSTRAINT producers_finite;
ALTER TABLE spendflush.pruned_marks DROP CONSTRAINT pruned_marks_finite;
ALTER TABLE spendflush.control DROP CONSTRAINT control_finite;
ALTER TABLE spendflush.day_fingerprint DROP CONSTRAINT day_fingerprint_finite;
ALTER TABLE spendflush.quarantine DROP CONSTRAINT quarantine_finite;
ALTER TABLE spendflush.applied_by_hand DROP CONSTRAINT applied_by_hand_finite;
