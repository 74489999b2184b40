-- Moves all turns: a flush that has read which part takes ids reads again.
UPDATE spendflush.id_buckets SET turn = turn + 1
