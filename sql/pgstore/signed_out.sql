-- $1 how many at most. A session begins with eight bytes that say which token it is of. Of each token those come first that
-- end last, and the n-th of each before the one after it of any: so no token takes the places of others.
SELECT session, ends_at FROM (
    SELECT session, ends_at, pg_catalog.row_number() OVER (PARTITION BY pg_catalog.left(session::text, 18) ORDER BY ends_at DESC) AS place
    FROM spendflush.signed_out WHERE ends_at >= now()
) AS of_tokens
ORDER BY place LIMIT $1::integer
