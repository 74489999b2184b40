-- Moves kept entries to the end of the queue of a shard, oldest first, whatever the queue may hold.
--
-- KEYS    queue (stream), index (stream), bytes (number), kept (stream), mark of the nil producer (number), which is
--         forgotten once all are moved
-- ARGV    id of the last kept entry to move, '' for the one that is last now; most entries to move; bytes of batches
--         after which to stop
-- returns how many it moved; the id of the last kept entry to move, '' if none is left up to it
local queue, index, total, kept, books = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local last, entries, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

-- Entries that are settled again while others are moved come after the last one, so the moving ends.
if last == '' then
  local entry = redis.call('XREVRANGE', kept, '+', '-', 'COUNT', 1)[1]
  if not entry then
    redis.call('DEL', books)
    return {0, ''}
  end
  last = entry[1]
end

-- A Redis that is out of memory refuses a script whose first write needs some. Moving needs none in the end, so a
-- write goes first that deletes nothing. Were it the deletion of the entry, an error after it would lose the batch.
redis.call('XDEL', kept, '0-0')

-- Index and bytes are kept as push.lua keeps them. If they don't match the queue, they don't afterwards either, or
-- the bytes stay away, and the next push makes them anew.
if redis.call('XLEN', queue) == 0 then
  redis.call('DEL', index)
  redis.call('SET', total, 0)
end
local counting = redis.call('EXISTS', total) == 1

local moved, copied = 0, 0
while moved < entries and copied < most do
  local entry = redis.call('XRANGE', kept, '-', last, 'COUNT', 1)[1]
  if not entry then
    redis.call('DEL', books)
    return {moved, ''}
  end
  local batch = fieldsOf(entry)
  if batch.p and batch.s and batch.b then -- else it was put there by hand, and is dropped
    local n = #batch.b
    local id = redis.call('XADD', queue, '*', 'p', batch.p, 's', batch.s, 'b', batch.b)
    redis.call('XADD', index, id, 'n', n, 'c', cost(n))
    if counting then
      redis.call('INCRBY', total, cost(n))
    end
    moved, copied = moved + 1, copied + n
  end
  redis.call('XDEL', kept, entry[1])
end
return {moved, last}
