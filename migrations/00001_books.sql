-- The books: marks of the producers, entity totals, rollups by series and hour, control sums.
--
-- Sums are kept under the 128-bit keys that the program computes (spendflush.Key), so that no id handed out by this
-- database can ever name something else. The texts that a key stands for are rows of a dictionary, entity or series.
-- docs/adr/0001-storage-keys.md has the reasons and the numbers. In tables that are updated all the time, columns of
-- fixed width that seldom change stand first: it makes the log of an update shorter.

-- +goose Up

CREATE TABLE spendflush.producers (
    producer     uuid           NOT NULL,
    shard        smallint       NOT NULL,
    shards       smallint       NOT NULL, -- lanes that the producer has
    first_seen   timestamptz    NOT NULL,
    claimed_from bigint         NOT NULL, -- the first sequence of the last claim
    sequence     bigint         NOT NULL, -- the mark: every batch up to here is in the books
    claims       bigint         NOT NULL, -- how often the mark was moved
    seal         bigint         NOT NULL, -- the last seal that is complete with the mark
    whole        boolean        NOT NULL, -- no part of a later seal is in the books
    updates      bigint         NOT NULL, -- updates in all batches up to the mark
    seen_at      timestamptz    NOT NULL,
    amount       numeric(38,12) NOT NULL, -- and the sum of their amounts
    PRIMARY KEY (producer, shard),
    CHECK (claimed_from BETWEEN 1 AND sequence)
) WITH (fillfactor = 50);

CREATE TABLE spendflush.control (
    shard                       smallint       NOT NULL,
    book                        text           NOT NULL, -- 'rollup', or an entity type
    failed_requests             bigint         NOT NULL,
    cache_creation_input_tokens bigint         NOT NULL,
    cache_read_input_tokens     bigint         NOT NULL,
    successful_requests         bigint         NOT NULL,
    prompt_tokens               bigint         NOT NULL,
    completion_tokens           bigint         NOT NULL,
    spend                       numeric(38,12) NOT NULL,
    PRIMARY KEY (shard, book)
) WITH (fillfactor = 50);

-- Texts are compared as bytes: that is faster, and an index on them outlives a change of the system's collations.
CREATE TABLE spendflush.entity (
    key         uuid             PRIMARY KEY,
    entity_type text COLLATE "C" NOT NULL,
    entity_id   text COLLATE "C" NOT NULL,
    team_id     text COLLATE "C" NOT NULL DEFAULT '' -- only of a team_member, whose entity_id is the user's
);

CREATE INDEX entity_names ON spendflush.entity (entity_type, entity_id, team_id);

CREATE TABLE spendflush.total (
    entity                      uuid           PRIMARY KEY, -- entity.key
    failed_requests             bigint         NOT NULL,
    cache_creation_input_tokens bigint         NOT NULL,
    cache_read_input_tokens     bigint         NOT NULL,
    successful_requests         bigint         NOT NULL,
    prompt_tokens               bigint         NOT NULL,
    completion_tokens           bigint         NOT NULL,
    updated_at                  timestamptz    NOT NULL,
    spend                       numeric(38,12) NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE spendflush.series (
    key                      uuid               PRIMARY KEY,
    api_key                  text COLLATE "C"   NOT NULL DEFAULT '',
    user_id                  text COLLATE "C"   NOT NULL DEFAULT '',
    end_user_id              text COLLATE "C"   NOT NULL DEFAULT '',
    team_id                  text COLLATE "C"   NOT NULL DEFAULT '',
    organization_id          text COLLATE "C"   NOT NULL DEFAULT '',
    agent_id                 text COLLATE "C"   NOT NULL DEFAULT '',
    model                    text COLLATE "C"   NOT NULL DEFAULT '',
    model_group              text COLLATE "C"   NOT NULL DEFAULT '',
    custom_llm_provider      text COLLATE "C"   NOT NULL DEFAULT '',
    mcp_namespaced_tool_name text COLLATE "C"   NOT NULL DEFAULT '',
    endpoint                 text COLLATE "C"   NOT NULL DEFAULT '',
    tags                     text[] COLLATE "C" NOT NULL DEFAULT '{}' -- sorted, each once
);

CREATE INDEX series_api_key ON spendflush.series (api_key) WHERE api_key <> '';
CREATE INDEX series_user ON spendflush.series (user_id) WHERE user_id <> '';
CREATE INDEX series_end_user ON spendflush.series (end_user_id) WHERE end_user_id <> '';
CREATE INDEX series_team ON spendflush.series (team_id, user_id) WHERE team_id <> '';
CREATE INDEX series_organization ON spendflush.series (organization_id) WHERE organization_id <> '';
CREATE INDEX series_agent ON spendflush.series (agent_id) WHERE agent_id <> '';

-- The tags of the series once more, one a row, so that a view can look a tag up in an index.
CREATE TABLE spendflush.series_tag (
    tag    text COLLATE "C" NOT NULL,
    series uuid             NOT NULL,
    PRIMARY KEY (tag, series)
);

-- The rows of an hour lie side by side, so a flush touches few pages however long the history is.
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
) WITH (fillfactor = 50);

CREATE INDEX rollup_series ON spendflush.rollup (series, day);

-- Every total has its entity and every rollup row its series: like a foreign key, but looked at once a statement and
-- only for rows that are new, without a lock on the dictionary. A session plans this once and keeps the plan, perhaps
-- from when the dictionary was empty. So it is written as a subquery for each row, which can't become a join, with
-- nothing but the index to go by.

-- +goose StatementBegin
CREATE FUNCTION spendflush.check_entity() RETURNS trigger
LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
BEGIN
    IF EXISTS (SELECT FROM fresh f WHERE (SELECT e.key FROM spendflush.entity e WHERE e.key = f.entity) IS NULL) THEN
        RAISE foreign_key_violation USING
            MESSAGE = 'a total has no row in spendflush.entity', CONSTRAINT = 'total_has_entity';
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER total_has_entity AFTER INSERT ON spendflush.total
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION spendflush.check_entity();

-- +goose StatementBegin
CREATE FUNCTION spendflush.check_series() RETURNS trigger
LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
BEGIN
    IF EXISTS (SELECT FROM fresh f WHERE (SELECT s.key FROM spendflush.series s WHERE s.key = f.series) IS NULL) THEN
        RAISE foreign_key_violation USING
            MESSAGE = 'a rollup row has no row in spendflush.series', CONSTRAINT = 'rollup_has_series';
    END IF;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER rollup_has_series AFTER INSERT ON spendflush.rollup
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION spendflush.check_series();

-- +goose StatementBegin
CREATE FUNCTION spendflush.keep_tags() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO spendflush.series_tag (tag, series)
    SELECT DISTINCT tag, f.key FROM fresh f, unnest(f.tags) AS tag ORDER BY tag, f.key;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER series_keep_tags AFTER INSERT ON spendflush.series
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION spendflush.keep_tags();

CREATE TABLE spendflush.quarantine (
    id                          bigint         GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind                        text           NOT NULL CHECK (kind IN ('batch', 'row')),
    state                       text           NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'applied', 'dropped')),
    reason                      text           NOT NULL,
    created_at                  timestamptz    NOT NULL DEFAULT now(),
    settled_at                  timestamptz,             -- when it was applied or dropped
    shard                       smallint       NOT NULL,
    producer                    uuid,                    -- of a batch whose header can be read
    sequence                    bigint,
    digest                      bytea,                   -- of a batch: SHA-256 of its bytes, so that it is kept once
    bytes                       bytea,                   -- of a batch: as found in the queue
    book                        text,                    -- of a row: 'rollup' or the entity type, as in control
    row_key                     uuid,                    -- of a row: the key that its texts have
    names                       json,                    -- of a row: the texts themselves
    day                         date,                    -- of a rollup row
    hour                        smallint,
    failed_requests             bigint         NOT NULL DEFAULT 0,
    cache_creation_input_tokens bigint         NOT NULL DEFAULT 0,
    cache_read_input_tokens     bigint         NOT NULL DEFAULT 0,
    successful_requests         bigint         NOT NULL DEFAULT 0,
    prompt_tokens               bigint         NOT NULL DEFAULT 0,
    completion_tokens           bigint         NOT NULL DEFAULT 0,
    spend                       numeric        NOT NULL DEFAULT 0,
    CHECK ((kind = 'batch') = (digest IS NOT NULL AND bytes IS NOT NULL)),
    CHECK ((kind = 'row') = (book IS NOT NULL AND row_key IS NOT NULL))
);

CREATE UNIQUE INDEX quarantine_batch ON spendflush.quarantine (shard, digest) WHERE kind = 'batch';
CREATE INDEX quarantine_open ON spendflush.quarantine (id) WHERE state = 'open';

CREATE TABLE spendflush.lost_batches (
    producer   uuid        NOT NULL,
    shard      smallint    NOT NULL,
    sequence   bigint      NOT NULL,
    reason     text        NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (producer, shard, sequence)
);

-- +goose Down

DROP TABLE spendflush.lost_batches, spendflush.quarantine, spendflush.rollup, spendflush.series_tag,
    spendflush.series, spendflush.total, spendflush.entity, spendflush.control, spendflush.producers;
DROP FUNCTION spendflush.check_entity(), spendflush.check_series(), spendflush.keep_tags();
