-- Reads entries of the queue of a shard, as many as fit, at least one. Of an entry that is larger than any batch, or that
-- isn't whole for another reason, it returns only what is needed to set it aside.
--
-- KEYS    queue (stream)
-- ARGV    where to begin, as XRANGE takes it; most entries; bytes of batches after which to stop
-- returns for each entry: id; identity; bytes of its batch, -1 if it has none; the batch, or its beginning
local queue, from, entries, most = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local beginning = 1024

local reply, bytes, count = {}, 0, 0
while count < entries do
  -- One at a time: no more than one is copied that doesn't fit.
  local entry = redis.call('XRANGE', queue, from, '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  local fields = fieldsOf(entry)
  local n, b = fields.b and #fields.b or -1, fields.b or ''
  if n > LARGEST then
    b = string.sub(b, 1, beginning)
  end
  bytes = bytes + #b
  if count > 0 and bytes > most then
    break
  end
  count = count + 1
  for _, value in ipairs({entry[1], identityOf(fields), n, b}) do
    reply[#reply + 1] = value
  end
  from = '(' .. entry[1]
end
return reply
