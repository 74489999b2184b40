-- Moves retained entries to the end of the queue of a shard, oldest first, whatever the queue may hold.
--
-- KEYS    queue (stream), index (stream), bytes (number), retained (stream), then what is forgotten once all are moved:
--         booked (number), ahead (text)
-- ARGV    id of the last retained entry to move, '' for the one that is last now; most entries to move; bytes of batches
--         after which to stop
-- returns how many it moved; the id of the last retained entry to move, '' if none is left up to it; error EXHAUSTED if
--         the queue has given its last id and isn't empty
local queue, index, total, retained, booked, ahead = unpack(KEYS)
local last, entries, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

-- ended forgets the number of changes, and an empty stream, which would go on from its last id.
local function ended(moved)
  redis.call('DEL', booked, ahead)
  if redis.call('XLEN', retained) == 0 then
    redis.call('DEL', retained)
  end
  return {moved, ''}
end

-- Entries that are acked again while others are moved come after the last one, so the moving ends.
if last == '' then
  local entry = redis.call('XREVRANGE', retained, '+', '-', 'COUNT', 1)[1]
  if not entry then
    return ended(0)
  end
  last = entry[1]
end

-- A Redis that is out of memory refuses a script whose first write needs some. Moving needs none in the end, so a
-- write goes first that deletes nothing. Were it the deletion of the entry, an error after it would lose the batch.
redis.call('XDEL', retained, '0-0')

-- Index and bytes are kept as push.lua keeps them. If they don't match the queue, they don't afterwards either, or
-- the bytes stay away, and the next push makes them anew.
if redis.call('XLEN', queue) == 0 then
  redis.call('DEL', index)
  redis.call('SET', total, 0)
end
local counting = countIn(total) ~= nil

local moved, copied = 0, 0
while moved < entries and copied < most do
  local entry = redis.call('XRANGE', retained, '-', last, 'COUNT', 1)[1]
  if not entry then
    return ended(moved)
  end
  local batch = fieldsOf(entry)
  if isWhole(batch) then -- else it was put there by hand, and is dropped
    local n = #batch.b
    local id = add(queue, 'p', batch.p, 's', batch.s, 'b', batch.b)
    if type(id) == 'table' then
      return failureOf(id)
    end
    redis.call('XADD', index, id, 'n', n, 'c', cost(n), 'i', identityOf(batch))
    if counting then
      redis.call('INCRBY', total, cost(n))
    end
    moved, copied = moved + 1, copied + n
  end
  redis.call('XDEL', retained, entry[1])
end
return {moved, last}
