-- Lists the records not older than they are kept, the last written first.
--
-- KEYS    records (hash), seen (sorted set)
-- ARGV    milliseconds that records are kept; how many are wanted at most
-- returns the time in milliseconds, then id, when it was written in milliseconds, and record of each
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local reply = {ms}
local ids = redis.call('ZREVRANGEBYSCORE', KEYS[2], '+inf', '(' .. (ms - ARGV[1]), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #ids, 2 do
  local record = redis.call('HGET', KEYS[1], ids[i])
  if record then
    reply[#reply + 1] = ids[i]
    reply[#reply + 1] = tonumber(ids[i + 1])
    reply[#reply + 1] = record
  end
end
return reply
