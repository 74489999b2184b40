-- Which books the database has, since when under this id, and under which ids before; and who says so.
SELECT pg_is_in_recovery(), current_setting('server_encoding'), id, made_at, earlier FROM spendflush.books
