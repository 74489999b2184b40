-- Takes entries out of the queue of a shard, if they are still what they were, and publishes marks and how many changes
-- the books have had. It may retain the batches. It deals with no more ids once it has read many bytes, for Redis serves
-- nobody else meanwhile.
--
-- KEYS    queue (stream), index (stream), bytes (number), retained (stream), booked (number), window (number), then the key of
--         each mark
-- ARGV    seconds that a mark is kept; 1 to retain batches, else 0, and they are retained if another instance has a window; the caller's clock in Unix milliseconds; bytes of
--         batches after which to stop; changes of the books, 0 for none to publish; number of ids; the ids; their
--         identities; the marks, in the order of their keys
-- returns how many of the ids it dealt with, the first ones; how many entries were taken out and not retained because
--         Redis is out of memory
local queue, index, total, retained, booked, window = unpack(KEYS, 1, 6)
local seconds, clock = ARGV[1], tonumber(ARGV[3])
local retains = ARGV[2] == '1' or redis.call('EXISTS', window) == 1
local most, updates, ids = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local before = 6 -- arguments before the ids

-- A retained entry says in t what it and all those before it count for, since the stream was last empty. So the first
-- and the last of them tell what is retained, and XTRIM needs no accounts.
local sum, last = 0, nil
if retains then
  local newest = redis.call('XREVRANGE', retained, '+', '-', 'COUNT', 1)[1]
  sum, last = tonumber(fieldsOf(newest).t) or 0, newest and newest[1]
end

-- nextID returns the id of the next retained entry, from the later of two clocks: a clock that is behind must not make it
-- look old when it is right again.
local function nextID()
  local time = redis.call('TIME')
  local ms, seq = math.max(time[1] * 1000 + math.floor(time[2] / 1000), clock), 0
  if last then
    local lastMs, lastSeq = string.match(last, '^(%d+)-(%d+)$')
    if tonumber(lastMs) >= ms then
      ms, seq = tonumber(lastMs), tonumber(lastSeq) + 1
    end
  end
  return string.format('%.0f-%.0f', ms, seq)
end

-- copy retains the batch. It returns false if there is no room for it, and another error as it is.
local function copy(batch)
  sum = sum + cost(#batch.b)
  local fields = {'t', sum, 'p', batch.p, 's', batch.s, 'b', batch.b}
  local reply = redis.pcall('XADD', retained, nextID(), unpack(fields))
  if type(reply) == 'table' and not lacksMemory(reply) then
    -- The stream has had a later id: what had it was deleted by hand, or numbers of that size can't be told apart here.
    reply = add(retained, unpack(fields))
  end
  if lacksMemory(reply) or isExhausted(reply) then
    return false
  end
  last = type(reply) == 'string' and reply or last
  return true, type(reply) == 'table' and reply or nil
end

-- The copies come first: were anything deleted before them, a Redis out of memory would let them in.
local done, read, freed, taken, gone, room = 0, 0, 0, {}, {}, true
while done < ids and read < most do
  done = done + 1
  local id, identity = ARGV[before + done], ARGV[before + ids + done]
  if not taken[id] then
    -- The index spares reading the batch. What it says of another one may be out of date.
    local indexed = entryAt(index, id) or {}
    local isSame = indexed.i == identity
    local batch
    if retains and room or not isSame then
      batch = entryAt(queue, id)
      read = read + #(batch and batch.b or '')
      isSame = isSame or batch and identityOf(batch) == identity
    end
    if isSame then
      taken[id] = true
      gone[#gone + 1] = id
      freed = freed + (tonumber(indexed.c) or 0)
      if retains and room and batch and isWhole(batch) then
        local failure
        room, failure = copy(batch)
        if failure then
          return failure
        end
      end
    end
  end
end

-- What frees memory goes before the marks: a Redis that is out of it refuses a script whose first write needs some. So
-- there is always something to delete, the id that no entry has.
local deleted = redis.call('XDEL', queue, '0-0', unpack(gone))
redis.call('XDEL', index, '0-0', unpack(gone))
if countIn(total) then -- else the next push counts anew
  redis.call('DECRBY', total, freed)
end

-- A lower number comes from a process that is behind or late, and must not hide that Postgres was turned back.
-- requeue.lua forgets it.
if tonumber(updates) > (tonumber(redis.call('GET', booked) or 0) or 0) then
  redis.call('SET', booked, updates)
end
for i = 7, #KEYS do
  redis.call('SET', KEYS[i], ARGV[before + 2 * ids + i - 6], 'EX', seconds)
end
return {done, room and 0 or deleted}
