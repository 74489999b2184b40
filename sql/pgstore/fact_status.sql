-- The parts: their state; since when they take, or took, ids; an estimate of their rows; the bytes of table and index;
-- and how long ago the parts were tended, which is the same for all.
SELECT p.part, p.state, coalesce(p.opened_at, 'epoch'), coalesce(c.observed - p.opened, '0'),
    (SELECT greatest(0, reltuples)::bigint FROM pg_class WHERE oid = ('spendflush.ids_' || p.part)::regclass),
    pg_total_relation_size(('spendflush.ids_' || p.part)::regclass),
    greatest(clock_timestamp() - c.ticked_at, '0')
FROM spendflush.id_parts p, spendflush.id_clock c
ORDER BY p.part
