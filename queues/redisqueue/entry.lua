-- The beginning of every script that writes, weighs or compares batches. KEYS, ARGV and what is returned are that
-- script's. LARGEST, the bytes that a batch may have, is set before it.

-- cost is what a batch of n bytes takes in Redis, about: ids, other fields and the nodes of both streams, and what
-- the allocator rounds up. It is measured by TestBytesAreAboutWhatRedisUses.
local function cost(n)
  return n + math.floor(n / 5) + 200
end

-- countIn returns the number that a key holds, nil if it isn't one that these scripts have written.
local function countIn(key)
  local text = redis.call('GET', key)
  return text and #text <= 15 and string.match(text, '^%d+$') and tonumber(text) or nil
end

-- fieldsOf returns the fields of an entry by their names, none if there is no entry.
local function fieldsOf(entry)
  local found = {}
  for i = 1, #(entry and entry[2] or {}), 2 do
    found[entry[2][i]] = entry[2][i + 1]
  end
  return found
end

-- entryAt returns the fields of the entry with that id, nil if there is none.
local function entryAt(stream, id)
  local entry = redis.call('XRANGE', stream, id, id)[1]
  return entry and fieldsOf(entry)
end

-- entriesFrom returns the first entries of a stream from that place, at most so many. Redis refuses to look behind the
-- last possible id.
local function entriesFrom(stream, from, count)
  if from == '(18446744073709551615-18446744073709551615' then
    return {}
  end
  return redis.call('XRANGE', stream, from, '+', 'COUNT', count)
end

-- isWhole says whether the fields are those of a batch that Push has added.
local function isWhole(fields)
  return fields.p and #fields.p == 36 and fields.s and #fields.s <= 20 and fields.b and #fields.b <= LARGEST
end

-- identityOf returns what tells an entry apart from another one that got the same id after a loss: producer, sequence
-- and the checksum in the header of the batch, or of an entry that isn't whole a hash of its size and its beginning.
local function identityOf(fields)
  if isWhole(fields) then
    local checksum = string.gsub(string.sub(fields.b, 5, 8), '.', function(c) return string.format('%02x', string.byte(c)) end)
    return fields.p .. '/' .. fields.s .. '/' .. checksum
  end
  local b = fields.b or ''
  return string.sub(redis.sha1hex(#b .. '/' .. string.sub(b, 1, 1024)), 1, 16)
end

-- lacksMemory says whether the reply of redis.pcall is the refusal of a Redis that is out of memory. Only the first
-- write of a script is refused so; what follows is let through.
local function lacksMemory(reply)
  -- Redis 6 puts the place in the script before it.
  return type(reply) == 'table' and string.find(reply.err, 'OOM command not allowed', 1, true) ~= nil
end

-- isExhausted says whether the reply is the refusal of a stream that has given its last id.
local function isExhausted(reply)
  return type(reply) == 'table' and string.find(reply.err, 'exhausted the last possible ID', 1, true) ~= nil
end

-- add appends an entry with these fields to a stream and returns its id, or the error. A stream that has given its last
-- id, for example because an entry was added by hand, begins anew if nothing is in it.
local function add(stream, ...)
  local id = redis.pcall('XADD', stream, '*', ...)
  if isExhausted(id) and redis.call('XLEN', stream) == 0 then
    redis.call('DEL', stream)
    id = redis.pcall('XADD', stream, '*', ...)
  end
  return id
end

-- failureOf returns the error that a script returns for that of add.
local function failureOf(reply)
  return isExhausted(reply) and redis.error_reply('EXHAUSTED the stream has given its last id') or reply
end

