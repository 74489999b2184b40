-- Looks at the retained entries of a shard.
--
-- KEYS    retained (stream)
-- returns number of entries; bytes of memory that they count for
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not first then
  return {0, 0}
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local from, to = fieldsOf(first), fieldsOf(last)
local bytes = (tonumber(to.t) or 0) - (tonumber(from.t) or 0) + cost(#(from.b or ''))
return {redis.call('XLEN', KEYS[1]), math.max(bytes, 0)}
