-- Looks whether an entry is still in the queue and still the same batch. Ids can come again for other batches after
-- the loss of everything.
--
-- KEYS    queue (stream)
-- ARGV    id; producer; sequence
-- returns 1 if it is, else 0
local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then
  return 0
end
local found = {}
for i = 1, #entry[2], 2 do
  found[entry[2][i]] = entry[2][i + 1]
end
return (found.p == ARGV[2] and found.s == ARGV[3]) and 1 or 0
