-- Looks who has a lock.
--
-- KEYS    lock (string)
-- ARGV    -
-- returns nothing if nobody has it; else the value and the milliseconds until it expires, -1 for never
local held = redis.call('GET', KEYS[1])
if not held then
  return {}
end
return {held, redis.call('PTTL', KEYS[1])}
