-- Since when the parts take, or took, ids, in order.
SELECT array_agg(coalesce(opened_at, 'epoch') ORDER BY part) FROM spendflush.id_parts
