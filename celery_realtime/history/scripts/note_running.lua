-- Note which jobs an incarnation begins to run: its worker may be killed before it renews its lease, even for the first
-- time.
--
-- KEYS: alive, held, running, noted, as hold.lua has them
-- ARGV
--   1 incarnation  string
--   2 keep         seconds that it all is kept without another renewal
--   3 ...          string and JSON: field and description of each job
--
-- Returns nothing.

-- include: common

local alive_key, _, running_key, noted_key = unpack(KEYS)
local incarnation, keep = unpack(ARGV, 1, 2)
local FIRST_JOB = 3
-- Lua passes some 8,000 values on at once, and no more.
local CHUNK = 1000

for first = FIRST_JOB, #ARGV, CHUNK do
  redis.call('HSET', running_key, unpack(ARGV, first, math.min(first + CHUNK - 1, #ARGV)))
end
redis.call('EXPIRE', running_key, keep)
-- Without a lease, nobody would look for its jobs.
if not redis.call('ZSCORE', alive_key, incarnation) then
  redis.call('ZADD', noted_key, 'NX', common.now(), incarnation)
  redis.call('EXPIRE', noted_key, keep)
end
