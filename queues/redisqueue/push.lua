-- Adds a batch to the end of the queue of a shard.
--
-- KEYS    queue (stream), index (stream), bytes (number)
-- ARGV    most bytes that the queue may hold, 0 for any; producer; sequence; batch
-- returns the id of the new entry; '' if the queue is full; error OOM if Redis is; error EXHAUSTED if the queue has
--         given its last id and isn't empty
--
-- The index has an entry of the same id for each entry of the queue, which says how large that one is and what: n, the
-- bytes of its batch, c, the bytes that it counts for, and i, its identity. If the two don't match, another program has
-- changed the keys (an eviction, an operator): the index is made anew.
local queue, index, total = unpack(KEYS)
local most, batch = tonumber(ARGV[1]), {p = ARGV[2], s = ARGV[3], b = ARGV[4]}

-- note adds to the index what the entry is.
local function note(id, n, identity)
  redis.call('XADD', index, id, 'n', n, 'c', cost(n), 'i', identity)
end

-- measure reads the whole queue, a few entries at a time.
local function measure()
  local found, bytes, from = {}, 0, '-'
  while true do
    local entries = entriesFrom(queue, from, 10)
    for _, entry in ipairs(entries) do
      local fields = fieldsOf(entry)
      local n = #(fields.b or '')
      found[#found + 1] = {entry[1], n, identityOf(fields)}
      bytes = bytes + cost(n)
    end
    if #entries < 10 then
      return found, bytes
    end
    from = '(' .. entries[#entries][1]
  end
end

local waiting = redis.call('XLEN', queue)
local bytes = countIn(total)
local found
if waiting == 0 then
  found, bytes = {}, 0
elseif not bytes or redis.call('XLEN', index) ~= waiting then
  found, bytes = measure()
end

local full = most > 0 and waiting > 0 and bytes + cost(#batch.b) > most

-- Nothing may be written before this: see lacksMemory.
local id = ''
if not full then
  id = add(queue, 'p', batch.p, 's', batch.s, 'b', batch.b)
  if lacksMemory(id) then
    return redis.error_reply('OOM the batch was not added')
  elseif type(id) == 'table' then
    return failureOf(id)
  end
end
if found then
  redis.call('DEL', index)
  for _, entry in ipairs(found) do
    note(unpack(entry))
  end
  redis.call('SET', total, bytes)
end
if not full then
  note(id, #batch.b, identityOf(batch))
  redis.call('INCRBY', total, cost(#batch.b))
end
return id
