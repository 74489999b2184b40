-- Which books these are: batches name them, and all that belongs to them in Redis lies under their id.

-- +goose Up

CREATE TABLE spendflush.books (
    single       boolean     PRIMARY KEY DEFAULT true CHECK (single),
    id           uuid        NOT NULL,
    made_at      timestamptz NOT NULL DEFAULT now(), -- when the id was made
    earlier      uuid[]      NOT NULL DEFAULT '{}',  -- ids that these books had before, the last one at the end
    witnesses    uuid[]      NOT NULL DEFAULT '{}',  -- the last random tokens, the newest first: a copy lacks those made later
    witnessed_at timestamptz                         -- when the newest was made
);
INSERT INTO spendflush.books (id) VALUES (gen_random_uuid());

-- +goose Down

DROP TABLE spendflush.books;
