-- Add a job to the list in which workers look for what has been cancelled lately.
--
-- KEYS
--   1 cancellations  sorted set: jobs by the time (s) at which they were cancelled last, no two at the same time
-- ARGV
--   1 job   string
--   2 keep  seconds that a cancellation is listed
--   3 most  cancellations that are listed, the latest

-- include: common

local cancellations_key = unpack(KEYS)
local job, keep, most = unpack(ARGV)
local now = common.now()

-- Workers ask for what came after the latest that they know, also when the clock has been put back.
local latest = redis.call('ZREVRANGE', cancellations_key, 0, 0, 'WITHSCORES')[2]
local at = math.max(now, tonumber(latest or 0) + 0.000001)

redis.call('ZADD', cancellations_key, string.format('%.6f', at), job)
redis.call('ZREMRANGEBYSCORE', cancellations_key, '-inf', now - keep)
redis.call('ZREMRANGEBYRANK', cancellations_key, 0, -1 - most)
redis.call('EXPIRE', cancellations_key, keep)
