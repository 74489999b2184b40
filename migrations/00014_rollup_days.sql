-- Rollups come to lie in parts by day: docs/adr/0023-rollups-in-parts.md says why. What there is becomes the first part as it is. It is
-- shown beforehand that it has no day behind its end, so that the tables are locked for a moment only.

-- +goose Up

-- The parts: the days that each has, of UTC, from one on and before another one.
CREATE TABLE spendflush.rollup_parts (
    part     name PRIMARY KEY,
    from_day date NOT NULL,
    to_day   date NOT NULL CHECK (to_day > from_day)
);

-- +goose StatementBegin
DO $$
DECLARE
    to_day date := (now() AT TIME ZONE 'UTC')::date + 40; -- updates may be of times ahead by an hour, and instances go on meanwhile
BEGIN
    IF EXISTS (SELECT FROM spendflush.rollup) THEN
        EXECUTE format('ALTER TABLE spendflush.rollup ADD CONSTRAINT rollup_first CHECK (day < %L) NOT VALID', to_day);
        INSERT INTO spendflush.rollup_parts (part, from_day, to_day) VALUES ('rollup_first', '-infinity', to_day);
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose Down

ALTER TABLE spendflush.rollup DROP CONSTRAINT IF EXISTS rollup_first;
DROP TABLE spendflush.rollup_parts;
