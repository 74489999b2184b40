-- Forgets kept entries of a shard by their age: their ids say when they were settled, by the clock of this Redis.
--
-- KEYS    kept (stream)
-- ARGV    age in milliseconds; none or less: all entries, even those of a clock that was put back
-- returns how many it forgot
local kept, age = KEYS[1], tonumber(ARGV[1])
if age <= 0 then
  return redis.call('XTRIM', kept, 'MAXLEN', 0)
end
local now = redis.call('TIME')
local before = now[1] * 1000 + math.floor(now[2] / 1000) - age
return redis.call('XTRIM', kept, 'MINID', math.max(before, 0))
