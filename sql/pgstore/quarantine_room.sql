-- Answers 1 if so many more batches, of so many bytes, have room in quarantine, else 0. What is settled doesn't count.
-- $1 batches, $2 how many may be open, $3 bytes, $4 how many may be open
SELECT (count(*) + $1::bigint <= $2::bigint AND coalesce(sum(octet_length(bytes)), 0) + $3::bigint <= $4::bigint)::integer
FROM spendflush.quarantine
WHERE kind = 'batch' AND state = 'open'
