-- Looks at the queue of a shard.
--
-- KEYS    queue (stream), index (stream), bytes (number)
-- returns number of entries; bytes that they count for; id of the first, '' if there is none
local waiting = redis.call('XLEN', KEYS[1])
if waiting == 0 then
  return {0, 0, ''}
end
-- The index spares copying the whole first batch to learn its id.
local from = redis.call('XLEN', KEYS[2]) == waiting and KEYS[2] or KEYS[1]
local first = redis.call('XRANGE', from, '-', '+', 'COUNT', 1)[1][1]
return {waiting, tonumber(redis.call('GET', KEYS[3]) or 0), first}
