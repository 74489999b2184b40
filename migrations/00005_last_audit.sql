-- The latest audit, one row: every instance can tell its result, whoever made it, and one instance at a time makes the next.

-- +goose Up

CREATE TABLE spendflush.last_audit (
    single     boolean          PRIMARY KEY DEFAULT true CHECK (single),
    claimed_at timestamptz      NOT NULL, -- when an audit was last set out to, or made
    as_of      timestamptz,               -- when the snapshot was taken; these are NULL before the first
    ok         boolean,
    seconds    double precision,          -- how long it took
    failed     text,                      -- the names of the checks that failed, with commas
    CHECK ((as_of IS NULL) = (ok IS NULL) AND (as_of IS NULL) = (seconds IS NULL) AND (as_of IS NULL) = (failed IS NULL))
);

-- +goose Down

DROP TABLE spendflush.last_audit;
