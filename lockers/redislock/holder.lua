-- Looks who has a lock.
--
-- KEYS    lock (string)
-- ARGV    -
-- returns nothing if nobody has it; else the value, or its first 4 KiB, which is more than any of ours, and the milliseconds
--         until it expires, -1 for never
local held = redis.call('GET', KEYS[1])
if not held then
  return {}
end
return {string.sub(held, 1, 4096), redis.call('PTTL', KEYS[1])}
