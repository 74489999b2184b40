-- Who settled an entry of the quarantine; and sessions of browsers that were ended before their time.

-- +goose Up

ALTER TABLE spendflush.quarantine ADD COLUMN settled_by text; -- NULL where it isn't known

CREATE TABLE spendflush.signed_out (
    session uuid        PRIMARY KEY, -- the id in its cookie, which alone opens nothing
    ends_at timestamptz NOT NULL     -- when it would have ended by itself; then its row isn't needed any more
);

-- +goose Down

DROP TABLE spendflush.signed_out;
ALTER TABLE spendflush.quarantine DROP COLUMN settled_by;
