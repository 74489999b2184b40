-- The beginning of every script that writes or weighs batches. KEYS, ARGV and what is returned are that script's.

-- cost is what a batch of n bytes takes in Redis, about: ids, other fields and the nodes of both streams, and what
-- the allocator rounds up. It is measured by TestBytesAreAboutWhatRedisUses.
local function cost(n)
  return n + math.floor(n / 5) + 150
end

-- fieldsOf returns the fields of an entry by their names, none if there is no entry.
local function fieldsOf(entry)
  local found = {}
  for i = 1, #(entry and entry[2] or {}), 2 do
    found[entry[2][i]] = entry[2][i + 1]
  end
  return found
end

-- lacksMemory says whether the reply of redis.pcall is the refusal of a Redis that is out of memory. Only the first
-- write of a script is refused so; what follows is let through.
local function lacksMemory(reply)
  -- Redis 6 puts the place in the script before it.
  return type(reply) == 'table' and string.find(reply.err, 'OOM command not allowed', 1, true) ~= nil
end

