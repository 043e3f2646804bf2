-- Keep the message of a job of a project, and forget those for which there is no room.
--
-- KEYS, both of one project
--   1 kept        hash: job id -> what is kept of its message; and under the empty id, how many bytes all of it has
--   2 kept-order  sorted set: ids of these jobs, by the time (s) at which each was kept
-- ARGV
--   1 ttl         seconds that a message is kept
--   2 most        messages that are kept
--   3 most_bytes  bytes of them
--   4 job         string
--   5 message     string

-- include: common

local kept_key, order_key = unpack(KEYS)
local ttl, most, most_bytes, job, message = unpack(ARGV)
ttl, most, most_bytes = tonumber(ttl), tonumber(most), tonumber(most_bytes)
local now = common.now()
local SIZE = ''
local MOST_EXPIRED = 100

-- What nobody knows the age of, nobody would forget.
if redis.call('EXISTS', order_key) == 0 then redis.call('DEL', kept_key) end

local size = tonumber(redis.call('HGET', kept_key, SIZE) or '0')

local function forget(other)
  size = size - redis.call('HSTRLEN', kept_key, other)
  redis.call('HDEL', kept_key, other)
  redis.call('ZREM', order_key, other)
end

forget(job)
redis.call('HSET', kept_key, job, message)
redis.call('ZADD', order_key, string.format('%.6f', now), job)
size = size + #message
for _, other in ipairs(redis.call('ZRANGEBYSCORE', order_key, '-inf', now - ttl, 'LIMIT', 0, MOST_EXPIRED)) do
  forget(other)
end
while size > most_bytes or redis.call('ZCARD', order_key) > most do
  local oldest = redis.call('ZRANGE', order_key, 0, 0)[1]
  if not oldest then break end
  forget(oldest)
end
redis.call('HSET', kept_key, SIZE, size)
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, math.ceil(ttl)) end
