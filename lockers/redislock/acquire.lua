-- Takes a lock if nobody has it, or if it is ours already: then an earlier try has won it and its reply was lost.
--
-- KEYS    lock (string)
-- ARGV    value: owner and token; milliseconds until it expires
-- returns nothing if the lock is ours; else the holder's value, or its first 4 KiB, which is more than any of ours, and the
--         milliseconds until it expires, -1 for never
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then
  return {string.sub(held, 1, 4096), redis.call('PTTL', KEYS[1])}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {}
