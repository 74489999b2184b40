-- Makes a lock last, if it is still ours.
--
-- KEYS    lock (string)
-- ARGV    value: owner and token; milliseconds until it expires
-- returns 1 if it is ours, else 0
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
