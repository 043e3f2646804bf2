-- Note that access was taken from a user, at a time that is later than all others that are on record.
--
-- KEYS
--   1 revoked  sorted set: JSON [user, project] by the time (s) at which the access was revoked last
--   2 ended    sorted set: users by the time (s) at which all their connections were ended last
-- ARGV
--   1 which    number of the key that it is noted in
--   2 what     string: its member
--   3 keep     seconds that revocations are kept
--   4 keep     seconds that ends of connections are kept
--
-- Returns the time.

-- include: common

local DAY = 86400

local which, what = unpack(ARGV, 1, 2)
local now = common.now()

-- Servers ask for what came after the latest that they know, also when the clock has been put back.
local at = now
for place, key in ipairs(KEYS) do
  local latest = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
  at = math.max(at, tonumber(latest or 0) + 0.000001)
  redis.call('ZREMRANGEBYSCORE', key, 0, now - ARGV[2 + place]) -- below 0 is what confirm_access.lua describes
end
at = string.format('%.6f', at)
redis.call('ZADD', KEYS[tonumber(which)], at, what)
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[3] + DAY) end
return at
