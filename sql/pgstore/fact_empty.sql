-- Makes retired parts empty, and answers how many it has. Nothing waits long behind it.
SELECT count(*) FILTER (WHERE spendflush.empty_ids(part)) FROM spendflush.id_parts WHERE state = 'retired'
