-- Adds to the control sums of a shard, and counts the changes in that of the book 'rollup', which is always among them.
-- $1 shard, $2 books, $3 changes, from $4 the counters
INSERT INTO spendflush.control AS t (shard, book, {{each "%"}}, changes)
SELECT $1::smallint, u.*, CASE u.book WHEN 'rollup' THEN $3::smallint ELSE 0 END
FROM unnest($2::text[], {{arrays 4}})
    AS u (book, {{each "%"}})
ORDER BY u.book
ON CONFLICT (shard, book) DO UPDATE SET
    {{each "% = t.% + excluded.%"}},
    changes = t.changes + excluded.changes
