-- Looks whether an entry is still in the queue and still the same batch. Ids can come again for other batches after
-- the loss of everything.
--
-- KEYS    queue (stream)
-- ARGV    id; identity
-- returns 1 if it is, else 0
local batch = entryAt(KEYS[1], ARGV[1])
return (batch and identityOf(batch) == ARGV[2]) and 1 or 0
