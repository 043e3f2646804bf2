-- Renew the lease of an incarnation, one life of a worker's process, and note which jobs its main process holds.
--
-- KEYS
--   1 alive    sorted set: incarnations by the time (s) of their latest renewal
--   2 held     hash of this incarnation: job -> JSON of each job that its main process has received and not finished
--   3 running  hash of this incarnation: job -> JSON of each job that it has reported as running and not as ended
--   4 noted    sorted set: incarnations that run jobs and hold no lease, by the time (s) since when
--   5 lapsed   hash: incarnation -> how many reapers have found that its lease had lapsed, and are not done
-- ARGV
--   1 incarnation  string
--   2 keep         seconds that it all is kept without another renewal
--   3 ...          string and JSON: name and description of each held job
--
-- Returns 1 if the lease was still there, 0 if it has lapsed or is new. If it has lapsed, it is 0 again and again, the
-- last time when all reapers are done: what they report may come later than what the incarnation says after a 0.

-- include: common

local alive_key, held_key, running_key, noted_key, lapsed_key = unpack(KEYS)
local incarnation, keep = unpack(ARGV, 1, 2)
local FIRST_JOB = 3

local renewed_at = redis.call('ZSCORE', alive_key, incarnation)
redis.call('ZADD', alive_key, common.now(), incarnation)
redis.call('ZREM', noted_key, incarnation)
-- `running` is left alone: its writers are the processes that run the jobs, and know more of them.
redis.call('DEL', held_key)
for place = FIRST_JOB, #ARGV, 2 do
  local job, description = ARGV[place], ARGV[place + 1]
  redis.call('HSET', held_key, job, description)
end
for _, key in ipairs({alive_key, held_key, running_key}) do redis.call('EXPIRE', key, keep) end
local reapers = tonumber(redis.call('HGET', lapsed_key, incarnation) or '')
if reapers and reapers <= 0 then redis.call('HDEL', lapsed_key, incarnation) end
return renewed_at and not reapers and 1 or 0
