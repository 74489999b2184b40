-- Rows that name nothing: totals without an entity, rollup rows without a series, and tags that differ from those of
-- their series.
-- $1 the days whose rollup rows are read, NULL for all
SELECT
    (SELECT count(*) FROM spendflush.total t WHERE NOT EXISTS (SELECT FROM spendflush.entity e WHERE e.key = t.entity)),
    (SELECT count(*) FROM spendflush.rollup r WHERE ($1::date[] IS NULL OR r.day = ANY ($1::date[])) AND NOT EXISTS (SELECT FROM spendflush.series s WHERE s.key = r.series)),
    (SELECT count(*)
        FROM (SELECT key AS series, unnest(tags) AS tag FROM spendflush.series) AS a
        FULL JOIN spendflush.series_tag b USING (series, tag)
        WHERE a IS NULL OR b IS NULL)
