-- Gives a lock up, if its holder still has it. Comparing and deleting are one step: a lock that has passed to another
-- holder meanwhile is not touched.
--
-- KEYS    lock
-- ARGV    value of the holder
-- returns 1 if it was given up, 0 if the lock is another's or nobody's
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
