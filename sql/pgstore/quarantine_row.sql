-- Sets aside a row that was refused.
-- $1 shard, $2 reason, $3 book, $4 key, $5 names, $6 day, $7 hour, from $8 the counters
INSERT INTO spendflush.quarantine (kind, shard, reason, book, row_key, names, day, hour, {{each "%"}})
VALUES ('row', $1::smallint, $2::text, $3::text, $4::uuid, $5::json, $6::date, $7::smallint, {{values 8}})
