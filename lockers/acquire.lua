-- Takes a lock, unless another has it.
--
-- KEYS    lock
-- ARGV    value of the taker; TTL in milliseconds
-- returns {1} if the taker has it now (or had it: the reply to an earlier try was lost);
--         {0, value of the holder, milliseconds until it expires} if another has it
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return {0, holder, redis.call('PTTL', KEYS[1])}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1}
