-- What one id of a caller counts once is kept in a ring of six tables: docs/adr/0020-ids.md says how.

-- +goose Up

-- Each row is an id, or a part of a request's: the two halves of its identity; what was said under it, 48 bits, and below these the
-- minute of the part in which it was committed, 16 bits; the buckets in which it counts, NULL for all.
CREATE TABLE spendflush.ids_0 (high bigint NOT NULL, low bigint NOT NULL, said bigint NOT NULL, buckets bigint);
CREATE TABLE spendflush.ids_1 (high bigint NOT NULL, low bigint NOT NULL, said bigint NOT NULL, buckets bigint);
CREATE TABLE spendflush.ids_2 (high bigint NOT NULL, low bigint NOT NULL, said bigint NOT NULL, buckets bigint);
CREATE TABLE spendflush.ids_3 (high bigint NOT NULL, low bigint NOT NULL, said bigint NOT NULL, buckets bigint);
CREATE TABLE spendflush.ids_4 (high bigint NOT NULL, low bigint NOT NULL, said bigint NOT NULL, buckets bigint);
CREATE TABLE spendflush.ids_5 (high bigint NOT NULL, low bigint NOT NULL, said bigint NOT NULL, buckets bigint);

CREATE INDEX ids_0_high ON spendflush.ids_0 (high);
CREATE INDEX ids_1_high ON spendflush.ids_1 (high);
CREATE INDEX ids_2_high ON spendflush.ids_2 (high);
CREATE INDEX ids_3_high ON spendflush.ids_3 (high);
CREATE INDEX ids_4_high ON spendflush.ids_4 (high);
CREATE INDEX ids_5_high ON spendflush.ids_5 (high);

-- One part is current and takes what commits; full ones are looked into, too; retired ones are to be made empty. Times are those
-- of id_clock.
CREATE TABLE spendflush.id_parts (
    part      smallint    PRIMARY KEY CHECK (part BETWEEN 0 AND 5),
    state     text        NOT NULL CHECK (state IN ('empty', 'current', 'full', 'retired')),
    opened    interval, -- when it became current, NULL while it is empty
    closed    interval, -- when another one did
    opened_at timestamptz
);
CREATE UNIQUE INDEX id_parts_current ON spendflush.id_parts (state) WHERE state = 'current';
INSERT INTO spendflush.id_parts (part, state, opened, opened_at) VALUES (0, 'current', '0', now());
INSERT INTO spendflush.id_parts (part, state) SELECT part, 'empty' FROM generate_series(1, 5) AS part;

-- The time that was observed: each tick adds the time since the one before, two minutes at most.
CREATE TABLE spendflush.id_clock (
    single    boolean     PRIMARY KEY DEFAULT true CHECK (single),
    observed  interval    NOT NULL,
    ticked_at timestamptz NOT NULL
);
INSERT INTO spendflush.id_clock (observed, ticked_at) VALUES ('0', now());

-- A flush that adds ids moves the turns of the buckets that they count in: of two that have decided by the same ids, one is held off.
CREATE TABLE spendflush.id_buckets (
    bucket smallint PRIMARY KEY CHECK (bucket BETWEEN 0 AND 63),
    turn   bigint   NOT NULL
) WITH (fillfactor = 10);
INSERT INTO spendflush.id_buckets (bucket, turn) SELECT bucket, 0 FROM generate_series(0, 63) AS bucket;

-- What was taken out of a batch before it was booked, for an hour. Package spend says how it is written.
CREATE TABLE spendflush.taken_out (
    producer     uuid        NOT NULL,
    shard        smallint    NOT NULL,
    sequence     bigint      NOT NULL,
    taken        bytea       NOT NULL,
    committed_at timestamptz NOT NULL,
    PRIMARY KEY (producer, shard, sequence)
);

-- Sealed, and neither booked nor lost: repeats of what is booked, and what had another content than what is booked under its id.
-- The latter is in quarantine. Control sums of the books 'duplicate' and 'conflict' say the same for each counter.
ALTER TABLE spendflush.producers
    ADD COLUMN duplicate_updates bigint NOT NULL DEFAULT 0, ADD COLUMN duplicate_amount numeric(38,12) NOT NULL DEFAULT 0,
    ADD COLUMN conflict_updates bigint NOT NULL DEFAULT 0, ADD COLUMN conflict_amount numeric(38,12) NOT NULL DEFAULT 0,
    ADD CONSTRAINT producers_taken_finite CHECK (duplicate_amount < 1e50 AND conflict_amount < 1e50) NOT VALID;
ALTER TABLE spendflush.pruned_marks
    ADD COLUMN duplicate_updates bigint NOT NULL DEFAULT 0, ADD COLUMN duplicate_amount numeric(38,12) NOT NULL DEFAULT 0,
    ADD COLUMN conflict_updates bigint NOT NULL DEFAULT 0, ADD COLUMN conflict_amount numeric(38,12) NOT NULL DEFAULT 0,
    ADD CONSTRAINT pruned_marks_taken_finite CHECK (duplicate_amount < 1e50 AND conflict_amount < 1e50) NOT VALID;

-- A conflict has the facts that were taken out of a batch, as a batch of their own, and what they count.
ALTER TABLE spendflush.quarantine DROP CONSTRAINT quarantine_kind_check, DROP CONSTRAINT quarantine_check;
ALTER TABLE spendflush.quarantine
    ADD CONSTRAINT quarantine_kind_check CHECK (kind IN ('batch', 'row', 'conflict')) NOT VALID,
    ADD CONSTRAINT quarantine_check CHECK ((kind IN ('batch', 'conflict')) = (digest IS NOT NULL AND bytes IS NOT NULL)) NOT VALID;

-- Makes a retired part empty, and says whether it was one. It has the rights of the owner, so that instances need none to truncate
-- tables; ids that are looked for it doesn't touch.

-- +goose StatementBegin
CREATE FUNCTION spendflush.empty_ids(part integer) RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM spendflush.id_parts p WHERE p.part = empty_ids.part AND p.state = 'retired' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    EXECUTE format('TRUNCATE spendflush.ids_%s', empty_ids.part);
    UPDATE spendflush.id_parts p SET state = 'empty', opened = NULL, closed = NULL, opened_at = NULL WHERE p.part = empty_ids.part;
    RETURN true;
END
$$;
-- +goose StatementEnd

-- +goose Down

-- What was taken out is told nowhere then, so that books which had repeats look as if they had lost them.
DROP FUNCTION spendflush.empty_ids(integer);
DELETE FROM spendflush.quarantine WHERE kind = 'conflict';
DELETE FROM spendflush.control WHERE book IN ('duplicate', 'conflict');
ALTER TABLE spendflush.quarantine DROP CONSTRAINT quarantine_kind_check, DROP CONSTRAINT quarantine_check;
ALTER TABLE spendflush.quarantine
    ADD CONSTRAINT quarantine_kind_check CHECK (kind IN ('batch', 'row')),
    ADD CONSTRAINT quarantine_check CHECK ((kind = 'batch') = (digest IS NOT NULL AND bytes IS NOT NULL));
ALTER TABLE spendflush.pruned_marks
    DROP COLUMN duplicate_updates, DROP COLUMN duplicate_amount, DROP COLUMN conflict_updates, DROP COLUMN conflict_amount;
ALTER TABLE spendflush.producers
    DROP COLUMN duplicate_updates, DROP COLUMN duplicate_amount, DROP COLUMN conflict_updates, DROP COLUMN conflict_amount;
DROP TABLE spendflush.taken_out, spendflush.id_buckets, spendflush.id_clock, spendflush.id_parts,
    spendflush.ids_0, spendflush.ids_1, spendflush.ids_2, spendflush.ids_3, spendflush.ids_4, spendflush.ids_5;
