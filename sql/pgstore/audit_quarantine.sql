-- What is open in quarantine, by kind and book: how many entries, how many of which it isn't known what they count, and
-- the sums of the others. The book of batches is ''.
SELECT kind, coalesce(book, ''), count(*), count(*) FILTER (WHERE kind = 'batch' AND updates IS NULL),
    trim_scale(sum(spend))::text,
    coalesce(sum(CASE kind WHEN 'batch' THEN updates ELSE successful_requests::numeric + failed_requests END), 0)::text
FROM spendflush.quarantine
WHERE state = 'open'
GROUP BY kind, book
ORDER BY kind, book
