-- Adds a batch to the end of the queue of a shard.
--
-- KEYS    queue (stream), index (stream), bytes (number)
-- ARGV    most bytes that the queue may hold, 0 for any; producer; sequence; batch
-- returns the id of the new entry; '' if the queue is full; error OOM if Redis is
--
-- The index has an entry of the same id for each entry of the queue, which says only how large that one is: n, the
-- bytes of its batch, and c, the bytes that it counts for. If the two don't match, somebody else has been at the keys
-- (an eviction, an operator): it is made anew.
local queue, index, total = unpack(KEYS)
local most, producer, sequence, batch = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]

-- measure reads the whole queue, a few entries at a time.
local function measure()
  local found, bytes, from = {}, 0, '-'
  while true do
    local entries = redis.call('XRANGE', queue, from, '+', 'COUNT', 10)
    for _, entry in ipairs(entries) do
      local n = #(fieldsOf(entry).b or '')
      found[#found + 1] = {entry[1], n}
      bytes = bytes + cost(n)
    end
    if #entries < 10 then
      return found, bytes
    end
    from = '(' .. entries[#entries][1]
  end
end

local waiting = redis.call('XLEN', queue)
local bytes = tonumber(redis.call('GET', total) or nil)
local found
if waiting == 0 then
  found, bytes = {}, 0
elseif not bytes or redis.call('XLEN', index) ~= waiting then
  found, bytes = measure()
end

local full = most > 0 and waiting > 0 and bytes + cost(#batch) > most

-- Nothing may be written before this: see lacksMemory.
local id = ''
if not full then
  id = redis.pcall('XADD', queue, '*', 'p', producer, 's', sequence, 'b', batch)
  if lacksMemory(id) then
    return redis.error_reply('OOM the batch was not added')
  elseif type(id) == 'table' then
    return id
  end
end
if found then
  redis.call('DEL', index)
  for _, entry in ipairs(found) do
    redis.call('XADD', index, entry[1], 'n', entry[2], 'c', cost(entry[2]))
  end
  redis.call('SET', total, bytes)
end
if not full then
  redis.call('XADD', index, id, 'n', #batch, 'c', cost(#batch))
  redis.call('INCRBY', total, cost(#batch))
end
return id
