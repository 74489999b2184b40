-- How many times the books and the quarantine of a shard have changed. Sums don't tell of what was only set aside, so a
-- database that was turned back by that alone went unnoticed.

-- +goose Up

-- Kept in the rows of the book 'rollup'.
ALTER TABLE spendflush.control ADD COLUMN changes bigint NOT NULL DEFAULT 0;

-- +goose Down

ALTER TABLE spendflush.control DROP COLUMN changes;
