-- Holds the turns of buckets until the end of the transaction, in their order.
-- $1 buckets
SELECT count(*) FROM (SELECT FROM spendflush.id_buckets WHERE bucket = ANY ($1::smallint[]) ORDER BY bucket FOR UPDATE) AS held
