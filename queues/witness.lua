-- Shows the witness of a database, unless that of another one is shown.
--
-- KEYS    witness (text)
-- ARGV    milliseconds that it is shown; the witnesses of the database, the newest first
-- returns 1 if it is shown, 0 if another database's is
local is = redis.call('GET', KEYS[1])
local own = not is
for i = 2, #ARGV do
  own = own or ARGV[i] == is
end
if not own or #ARGV < 2 then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
return 1
