-- Sets aside what had another content than the books under its id.
-- $1 shard, $2 reasons, $3 bytes, $4 producers, $5 sequences, $6 updates, from $7 the counters
INSERT INTO spendflush.quarantine (kind, shard, reason, digest, bytes, producer, sequence, updates, {{each "%"}})
SELECT 'conflict', $1::smallint, u.reason, sha256(u.bytes), u.bytes, u.producer, u.sequence, u.updates, {{each "u.%"}}
FROM unnest($2::text[], $3::bytea[], $4::uuid[], $5::bigint[], $6::bigint[], {{arrays 7}})
    AS u (reason, bytes, producer, sequence, updates, {{each "%"}})
