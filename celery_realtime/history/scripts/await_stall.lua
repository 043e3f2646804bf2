-- Note when running jobs will count as stalled, if nothing more is heard of them until then.
--
-- KEYS
--   1 stalling       sorted set: running jobs by the time (s) at which they count as stalled
--   2 stalling-jobs  hash: job -> JSON of the progress to report then
-- ARGV
--   1 ...  for each job: what it is noted under; seconds from now; JSON of the progress
--
-- Returns nothing.

-- include: common

local stalling_key, stalling_jobs_key = unpack(KEYS)
local now = common.now()

for place = 1, #ARGV, 3 do
  local job, seconds, progress = unpack(ARGV, place, place + 2)
  redis.call('ZADD', stalling_key, now + tonumber(seconds), job)
  redis.call('HSET', stalling_jobs_key, job, progress)
end
