-- Shows the last witnesses of a database, unless those of another one are shown. They are 16 bytes each, the newest first.
--
-- KEYS    witnesses (text)
-- ARGV    milliseconds that they are shown; the witnesses of the database, the newest first
-- returns those that are shown; nil if they are another database's
local SIZE, MOST = 16, 64
local is = redis.call('GET', KEYS[1])
if #ARGV < 2 then
  return false
end

local own = not is
for i = 2, #ARGV do
  own = own or ARGV[i] == string.sub(is, 1, SIZE)
end
if own then
  local shown = table.concat(ARGV, '', 2, math.min(#ARGV, MOST + 1))
  redis.call('SET', KEYS[1], shown, 'PX', ARGV[1])
  return shown
end

-- Whoever can't ask its database at the moment knows no newer ones. A copy has made its newest one itself.
if #is <= SIZE * MOST then
  for i = SIZE + 1, #is, SIZE do
    if ARGV[2] == string.sub(is, i, i + SIZE - 1) then
      redis.call('PEXPIRE', KEYS[1], ARGV[1])
      return is
    end
  end
end
return false
