-- Flushes go on while this reads all rollups.

-- +goose Up

-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT FROM spendflush.rollup_parts) THEN
        ALTER TABLE spendflush.rollup VALIDATE CONSTRAINT rollup_first;
    END IF;
END
$$;
-- +goose StatementEnd

-- +goose Down

SELECT;
