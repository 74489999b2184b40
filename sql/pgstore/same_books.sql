-- Answers 1 if the database has these books, else 0. It comes after the claim: then whoever gives the books another id waits
-- for the end of this transaction, or has done so before.
-- $1 books
SELECT count(*) FROM spendflush.books WHERE id = $1::uuid
