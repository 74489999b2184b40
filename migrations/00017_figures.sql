-- Sums of whole days by one dimension each, kept ready for reports: docs/adr/0024-figures.md says how they stay true.

-- +goose Up

-- Of each day that is ready: the sum of its fingerprints when the figures were made. They hold while it is the same.
CREATE TABLE spendflush.figure_days (
    day         date        PRIMARY KEY, -- UTC
    fingerprint numeric(48) NOT NULL CHECK (fingerprint < 1e50),
    made_at     timestamptz NOT NULL,
    hourly      smallint[]  NOT NULL -- kinds that have figures of each hour, too
);

CREATE TABLE spendflush.figure (
    day                         date             NOT NULL,
    kind                        smallint         NOT NULL, -- the dimension: package pgstore has the numbers
    name                        text COLLATE "C" NOT NULL, -- '' where updates have none
    team_id                     text COLLATE "C" NOT NULL, -- of a team_member, else ''
    spend                       numeric(50,12)   NOT NULL,
    successful_requests         numeric(40)      NOT NULL,
    failed_requests             numeric(40)      NOT NULL,
    prompt_tokens               numeric(40)      NOT NULL,
    completion_tokens           numeric(40)      NOT NULL,
    cache_read_input_tokens     numeric(40)      NOT NULL,
    cache_creation_input_tokens numeric(40)      NOT NULL,
    CHECK (greatest(spend, successful_requests, failed_requests, prompt_tokens, completion_tokens, cache_read_input_tokens,
        cache_creation_input_tokens) < 1e50), -- NaN isn't
    PRIMARY KEY (kind, day, name, team_id)
);

CREATE TABLE spendflush.figure_hour (
    day                         date             NOT NULL,
    kind                        smallint         NOT NULL,
    hour                        smallint         NOT NULL,
    name                        text COLLATE "C" NOT NULL,
    spend                       numeric(50,12)   NOT NULL,
    successful_requests         numeric(40)      NOT NULL,
    failed_requests             numeric(40)      NOT NULL,
    prompt_tokens               numeric(40)      NOT NULL,
    completion_tokens           numeric(40)      NOT NULL,
    cache_read_input_tokens     numeric(40)      NOT NULL,
    cache_creation_input_tokens numeric(40)      NOT NULL,
    CHECK (greatest(spend, successful_requests, failed_requests, prompt_tokens, completion_tokens, cache_read_input_tokens,
        cache_creation_input_tokens) < 1e50), -- NaN isn't
    PRIMARY KEY (kind, day, hour, name)
);

-- +goose Down

DROP TABLE spendflush.figure_hour, spendflush.figure, spendflush.figure_days;
