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

-- It is known not to be in the books, but another batch of its producer has its place there.
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

CREATE VIEW spendflush.spend AS
SELECT
    e.entity_type,
    e.entity_id,
    e.team_id,
    sum(t.spend)::numeric(38,12) AS spend,
    sum(t.successful_requests + t.failed_requests::numeric) AS api_requests,
    sum(t.successful_requests) AS successful_requests,
    sum(t.failed_requests) AS failed_requests,
    sum(t.prompt_tokens) AS prompt_tokens,
    sum(t.completion_tokens) AS completion_tokens,
    sum(t.cache_read_input_tokens) AS cache_read_input_tokens,
    sum(t.cache_creation_input_tokens) AS cache_creation_input_tokens,
    max(t.updated_at) AS updated_at
FROM spendflush.total t
JOIN spendflush.entity e ON e.key = t.entity
GROUP BY e.key, e.entity_type, e.entity_id, e.team_id;

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

-- +goose Down

DROP TABLE spendflush.day_fingerprint;
DROP VIEW spendflush.spend;
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
