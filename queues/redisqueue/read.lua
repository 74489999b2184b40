-- Reads entries of the queue of a shard. It reads no more once it has many bytes, for Redis serves nobody else meanwhile.
-- Of an entry that is larger than any batch it returns only the beginning of what should be its batch.
--
-- KEYS    queue (stream)
-- ARGV    where to begin, as XRANGE takes it; most entries; most bytes of batches; bytes after which to stop; 1 if the
--         first entry is to be read however large it is, else 0
-- returns 1 if it stopped only because of the bytes after which to stop, else 0; then for each entry: id; identity;
--         bytes of its batch, -1 if it has none; the batch, or its beginning
local queue, from = KEYS[1], ARGV[1]
local entries, most, enough, forced = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local beginning = 1024

local reply, bytes = {0}, 0
for _ = 1, entries do
  if bytes >= enough then
    reply[1] = 1
    break
  end
  -- One at a time: no more than one is copied that doesn't fit.
  local entry = entriesFrom(queue, from, 1)[1]
  if not entry then
    break
  end
  local fields = fieldsOf(entry)
  local n, b = fields.b and #fields.b or -1, fields.b or ''
  if n > LARGEST then
    b = string.sub(b, 1, beginning)
  end
  bytes = bytes + #b
  if bytes > most and not forced then
    break
  end
  forced = false
  for _, value in ipairs({entry[1], identityOf(fields), n, b}) do
    reply[#reply + 1] = value
  end
  from = '(' .. entry[1]
end
return reply
