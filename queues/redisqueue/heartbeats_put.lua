-- Writes the record of one process, and forgets those not written for too long.
--
-- KEYS    records (hash), seen (sorted set)
-- ARGV    id; record; milliseconds that records are kept; how many are kept at most
-- returns the time in milliseconds
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ms, ARGV[1])
local gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ms - ARGV[3], 'LIMIT', 0, 100)
local over = redis.call('ZCARD', KEYS[2]) - #gone - ARGV[4]
if over > 0 then
  for _, id in ipairs(redis.call('ZRANGE', KEYS[2], #gone, #gone + math.min(over, 100) - 1)) do
    gone[#gone + 1] = id
  end
end
if #gone > 0 then
  redis.call('HDEL', KEYS[1], unpack(gone))
  redis.call('ZREM', KEYS[2], unpack(gone))
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return ms
