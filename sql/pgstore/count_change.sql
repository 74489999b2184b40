-- Counts a change of a shard that adds nothing to its control sums.
-- $1 shard
INSERT INTO spendflush.control AS t (shard, book, {{each "%"}}, changes)
VALUES ($1::smallint, 'rollup', {{each "0"}}, 1)
ON CONFLICT (shard, book) DO UPDATE SET changes = t.changes + 1
