-- Lets a lock live for another TTL, if its holder still has it.
--
-- KEYS    lock
-- ARGV    value of the holder; TTL in milliseconds
-- returns 1 if it was renewed, 0 if the lock is another's or nobody's
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
