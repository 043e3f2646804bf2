-- Renew the lease of an incarnation whose main process cannot do it now, since a task of it computes.
--
-- A lease that has lapsed is not made again, or its process would not learn that its jobs have been reported as lost.
--
-- KEYS: alive, held, running, as hold.lua has them
-- ARGV
--   1 incarnation  string
--   2 keep         seconds that it all is kept without another renewal
--
-- Returns 1 if the lease was there.

-- include: common

local alive_key, held_key, running_key = unpack(KEYS)
local incarnation, keep = unpack(ARGV)

if not redis.call('ZSCORE', alive_key, incarnation) then return 0 end
redis.call('ZADD', alive_key, common.now(), incarnation)
for _, key in ipairs({alive_key, held_key, running_key}) do redis.call('EXPIRE', key, keep) end
return 1
