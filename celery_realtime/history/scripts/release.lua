-- Give up the lease of an incarnation that ends in order, unless a job of it has not been reported as ended: that lease
-- lapses, so that the job is found lost.
--
-- KEYS: alive, held, running, as hold.lua has them
-- ARGV
--   1 incarnation  string
--
-- Returns 1 if the lease was given up.

local alive_key, held_key, running_key = unpack(KEYS)
local incarnation = unpack(ARGV)

if redis.call('HLEN', running_key) > 0 then return 0 end
redis.call('ZREM', alive_key, incarnation)
redis.call('DEL', held_key)
return 1
