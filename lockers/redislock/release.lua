-- Gives a lock up, if it is still ours.
--
-- KEYS    lock (string)
-- ARGV    value: owner and token
-- returns 1 if it was ours, else 0
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('DEL', KEYS[1])
