-- Sets aside a row that was refused.
-- $1 shard, $2 reason, $3 book, $4 key, $5 names, $6 day, $7 hour, $8 to $14 counters
INSERT INTO spendflush.quarantine (kind, shard, reason, book, row_key, names, day, hour, spend, successful_requests,
    failed_requests, prompt_tokens, completion_tokens, cache_read_input_tokens, cache_creation_input_tokens)
VALUES ('row', $1::smallint, $2::text, $3::text, $4::uuid, $5::json, $6::date, $7::smallint, $8::numeric, $9::bigint,
    $10::bigint, $11::bigint, $12::bigint, $13::bigint, $14::bigint)
