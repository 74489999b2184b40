-- Which batches were applied by hand out of quarantine. It is by what a batch is, and not by the bytes of its entry: the same
-- batch may lie there twice, signed and unsigned, or signed by two keys.

-- +goose Up

CREATE TABLE spendflush.applied_by_hand (
    shard      smallint       NOT NULL,
    producer   uuid           NOT NULL,
    sequence   bigint         NOT NULL,
    digest     uuid           NOT NULL,
    entry      bigint         NOT NULL, -- quarantine.id
    applied_at timestamptz    NOT NULL DEFAULT now(),
    beside     boolean        NOT NULL, -- booked among what was pruned: no claim covers it, and none may book it again
    updates    bigint         NOT NULL,
    amount     numeric(38,12) NOT NULL,
    PRIMARY KEY (producer, shard, sequence, digest)
);

-- Those applied before. The digest leaves out the checksum, the books and the signature: bytes 4 to 7, 120 to 135, and the last 32
-- if byte 3 is 1. That byte and the length in bytes 8 to 11 count as if there were none.
INSERT INTO spendflush.applied_by_hand (shard, producer, sequence, digest, entry, applied_at, beside, updates, amount)
SELECT shard, producer, sequence,
    encode(substr(sha256(substr(bytes, 1, 3) || '\x00'::bytea || int4send(length(bytes) - 32 * get_byte(bytes, 3)) || substr(bytes, 13, 108)
        || substr(bytes, 137, greatest(length(bytes) - 136 - 32 * get_byte(bytes, 3), 0))), 1, 16), 'hex')::uuid,
    id, coalesce(settled_at, created_at), false, coalesce(updates, 0), spend
FROM spendflush.quarantine
WHERE kind = 'batch' AND state = 'applied' AND producer IS NOT NULL AND sequence IS NOT NULL AND length(bytes) >= 136
ORDER BY id
ON CONFLICT DO NOTHING;

-- +goose Down

DROP TABLE spendflush.applied_by_hand;
