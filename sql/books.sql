-- Which books the database has, since when under this id, and under which ids before.
SELECT pg_is_in_recovery(), id, made_at, earlier FROM spendflush.books
