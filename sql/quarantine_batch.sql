-- Keeps a queue entry that can't be applied, once.
-- $1 shard, $2 reason, $3 bytes; $4 producer, $5 sequence, $6 updates and $7 amount where they could be read
INSERT INTO spendflush.quarantine (kind, shard, reason, digest, bytes, producer, sequence, updates, spend)
VALUES ('batch', $1::smallint, $2::text, sha256($3::bytea), $3::bytea, $4::uuid, $5::bigint, $6::bigint,
    coalesce($7::text::numeric, 0))
ON CONFLICT (shard, digest) WHERE kind = 'batch' DO NOTHING
