-- Forgets retained entries of a shard by their age: their ids say when they were acked.
--
-- KEYS    retained (stream), ahead (text), window (number), last window (number)
-- ARGV    age in milliseconds, none or less for all entries; the caller's clock in Unix milliseconds; 1 to publish the age as the
--         window of the caller, else 0; for how many milliseconds a window is that of a living instance, and for how many it is
--         known
-- returns how many it forgot
local retained, ahead, age, callers = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2])
local window, lastWindow = KEYS[3], KEYS[4]
local before = redis.call('XLEN', retained)
if age <= 0 then
  redis.call('DEL', retained, ahead)
  return before
end

-- The longest window that a living instance has decides, of those that these scripts have written: others would let it be
-- kept for ever.
local lives = redis.call('PTTL', window)
local longest = math.max(age, lives > 0 and lives <= tonumber(ARGV[4]) and countIn(window) or 0)
local publishes = ARGV[3] == '1' and age == longest
age = longest

local time = redis.call('TIME')
local own = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('XTRIM', retained, 'MINID', string.format('%.0f', math.max(math.min(own, callers) - age, 0)))

-- While a clock is ahead, ids say a time that is still to come, and so do all later ones, for ids only grow. Of such
-- entries it isn't known when they were acked, but it was before they were first seen here. That, and up to which id, is
-- noted. They go once they were retained for the age since then by both clocks: either of them may jump.
local noted = redis.call('GET', ahead)
if noted then
  local ownThen, callersThen, last = string.match(noted, '^(%d+) (%d+) (%d+-%d+)$')
  ownThen, callersThen = tonumber(ownThen), tonumber(callersThen)
  if not last or own < ownThen or callers < callersThen then
    noted = false -- a clock was put back, so it is noted anew
  elseif math.min(own - ownThen, callers - callersThen) >= age then
    redis.call('XTRIM', retained, 'MINID', last)
    redis.call('XDEL', retained, last)
    noted = false
  end
end

local newest = redis.call('XREVRANGE', retained, '+', '-', 'COUNT', 1)[1]
local slack = 60000
if not newest then
  redis.call('DEL', retained, ahead) -- an empty stream would go on from its last id
elseif tonumber(string.match(newest[1], '^%d+')) <= math.min(own, callers) + slack then
  redis.call('DEL', ahead)
elseif not noted then
  redis.call('SET', ahead, string.format('%.0f %.0f %s', own, math.max(callers, 0), newest[1]))
end
if publishes then -- last, for a Redis out of memory takes it only after a write that needs none
  redis.call('SET', window, ARGV[1], 'PX', ARGV[4])
  redis.call('SET', lastWindow, ARGV[1], 'PX', ARGV[5])
end
return before - redis.call('XLEN', retained)
