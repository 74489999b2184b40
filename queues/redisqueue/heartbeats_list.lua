-- Lists the records not older than they are kept, the last written first. Those that no process can have written are left
-- out, and it lists no more once it has many bytes.
--
-- KEYS    records (hash), seen (sorted set)
-- ARGV    milliseconds that records are kept; how many are wanted at most; most bytes of an id, of a record and of all
--         of these
-- returns the time in milliseconds, then id, when it was written in milliseconds, and record of each
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local mostId, mostRecord, left = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local reply = {ms}
local ids = redis.call('ZREVRANGEBYSCORE', KEYS[2], '+inf', '(' .. (ms - ARGV[1]), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #ids, 2 do
  local record = #ids[i] <= mostId and redis.call('HGET', KEYS[1], ids[i])
  if record and #record <= mostRecord then
    left = left - #ids[i] - #record
    if left < 0 then
      break
    end
    reply[#reply + 1] = ids[i]
    reply[#reply + 1] = tonumber(ids[i + 1])
    reply[#reply + 1] = record
  end
end
return reply
