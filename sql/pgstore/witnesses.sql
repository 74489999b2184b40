-- The last witnesses, the newest first. No row: the database has other books.
-- $1 books
SELECT witnesses FROM spendflush.books WHERE id = $1::uuid
