-- Reads a text, unless it is longer than any that spendflush writes there: whoever may write to Redis can put half a GiB
-- there, which every instance would read into its memory.
--
-- KEYS    key
-- ARGV    most bytes
-- returns the text; nil if there is none; error TOOLONG
local text = redis.call('GET', KEYS[1])
if text and #text > tonumber(ARGV[1]) then
  return redis.error_reply('TOOLONG it has ' .. #text .. ' bytes; allowed are ' .. ARGV[1])
end
return text
