-- The rows that are set aside in quarantine, open or dropped: their book, the key and names of their entity or series, the
-- day from 2000-01-01 and the hour of a rollup row, the counters.
SELECT id, book, row_key, coalesce(names::text, ''), coalesce(day - date '2000-01-01', 0), coalesce(hour, 0), spend::text,
    {{whole "%"}}
FROM spendflush.quarantine
WHERE kind = 'row' AND state <> 'applied'
