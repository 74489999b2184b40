-- Takes exactly these entries out of the queue of a shard and publishes marks.
--
-- KEYS    queue (stream), index (stream), bytes (number), then the key of each mark
-- ARGV    seconds that a mark is kept; number of ids; the ids; the marks, in the order of their keys
-- returns how many of the entries were there
local queue, index, total = KEYS[1], KEYS[2], KEYS[3]
local seconds, ids = ARGV[1], tonumber(ARGV[2])

-- What frees memory goes first: a Redis that is out of it refuses a script whose first write needs some.
local gone = 0
if ids > 0 then
  local freed, counted = 0, {}
  for i = 3, 2 + ids do
    local indexed = redis.call('XRANGE', index, ARGV[i], ARGV[i])[1]
    if indexed and not counted[indexed[1]] then
      counted[indexed[1]] = true
      freed = freed + (tonumber(indexed[2][4]) or 0)
    end
  end
  gone = redis.call('XDEL', queue, unpack(ARGV, 3, 2 + ids))
  redis.call('XDEL', index, unpack(ARGV, 3, 2 + ids))
  if redis.call('EXISTS', total) == 1 then
    redis.call('DECRBY', total, freed)
  end
end
for i = 4, #KEYS do
  redis.call('SET', KEYS[i], ARGV[ids + i - 1], 'EX', seconds)
end
return gone
