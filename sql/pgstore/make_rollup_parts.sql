-- Makes the parts that rollups of these days lie in, unless they are there.
-- $1 days
SELECT count(*) FILTER (WHERE spendflush.make_rollup_part(u.day)) FROM unnest($1::date[]) AS u (day)
