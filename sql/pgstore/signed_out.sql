-- $1 how many at most, of those that end last
SELECT session, ends_at FROM spendflush.signed_out WHERE ends_at >= now() ORDER BY ends_at DESC LIMIT $1::integer
