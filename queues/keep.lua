-- Settles as settle.lua does, and keeps a copy of each batch that it takes out. It deals with no more ids once it has
-- copied many bytes, for Redis serves nobody else meanwhile. Entries that hold no batch aren't kept.
--
-- KEYS    queue (stream), index (stream), bytes (number), kept (stream), then the key of each mark
-- ARGV    seconds that a mark is kept; bytes of batches after which to stop; number of ids; the ids; the marks
-- returns how many of the ids it dealt with, the first ones; how many entries were there and aren't kept because Redis
--         is out of memory
local queue, index, total, kept = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local seconds, most, ids = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local before = 3 -- arguments before the ids

-- A kept entry says in t what it and all those before it count for, since kept was last empty. So the first and the
-- last of them tell what is kept, and XTRIM needs no accounts.
local sum = tonumber(fieldsOf(redis.call('XREVRANGE', kept, '+', '-', 'COUNT', 1)[1]).t) or 0

-- copy adds the batch to what is kept. It returns false if Redis lacks memory, and another error as it is.
local function copy(batch)
  sum = sum + cost(#batch.b)
  local reply = redis.pcall('XADD', kept, '*', 't', sum, 'p', batch.p, 's', batch.s, 'b', batch.b)
  if lacksMemory(reply) then
    return false
  end
  return true, type(reply) == 'table' and reply or nil
end

-- The copies come first: were anything deleted before them, a Redis out of memory would let them in.
local done, copied, freed, counted, room = 0, 0, 0, {}, true
while done < ids and copied < most do
  done = done + 1
  local id = ARGV[before + done]
  if not counted[id] then
    counted[id] = true
    local indexed = redis.call('XRANGE', index, id, id)[1]
    freed = freed + (indexed and tonumber(indexed[2][4]) or 0)
    local batch = room and fieldsOf(redis.call('XRANGE', queue, id, id)[1]) or {}
    if batch.p and batch.s and batch.b then
      local failure
      room, failure = copy(batch)
      if failure then
        return failure
      end
      copied = copied + #batch.b
    end
  end
end

local gone = 0
if done > 0 then
  gone = redis.call('XDEL', queue, unpack(ARGV, before + 1, before + done))
  redis.call('XDEL', index, unpack(ARGV, before + 1, before + done))
  if redis.call('EXISTS', total) == 1 then
    redis.call('DECRBY', total, freed)
  end
end
-- The mark of the nil producer, which is how many updates the books have, is never replaced by a lower one: what comes
-- from somebody who is behind or late must not hide that Postgres was turned back. requeue.lua forgets it.
local function isBehind(key, mark)
  return string.sub(key, -36) == '00000000-0000-0000-0000-000000000000'
    and tonumber(redis.call('GET', key) or 0) > tonumber(mark)
end

for i = 5, #KEYS do
  local mark = ARGV[before + ids + i - 4]
  if not isBehind(KEYS[i], mark) then
    redis.call('SET', KEYS[i], mark, 'EX', seconds)
  end
end
return {done, room and 0 or gone}
