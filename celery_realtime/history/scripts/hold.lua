-- Renew the lease of an incarnation, one life of a worker's process, and note which jobs its main process holds.
--
-- KEYS
--   1 alive    sorted set: incarnations by the time (s) of their latest renewal
--   2 held     hash of this incarnation: job -> JSON of each job that its main process has received and not finished
--   3 running  hash of this incarnation: job -> JSON of each job that it has reported as running and not as ended
--   4 noted    sorted set: incarnations that run jobs and hold no lease, by the time (s) since when
-- ARGV
--   1 incarnation  string
--   2 keep         seconds that it all is kept without another renewal
--   3 ...          string and JSON: name and description of each held job
--
-- Returns 1 if the lease was still there, 0 if it has lapsed or is new.

-- include: common

local alive_key, held_key, running_key, noted_key = unpack(KEYS)
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
return renewed_at and 1 or 0
