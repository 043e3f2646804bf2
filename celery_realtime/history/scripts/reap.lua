-- Find the jobs of incarnations whose lease has lapsed, queued jobs that have expired, and running jobs that have
-- stalled.
--
-- What is found is hidden from other reapers for the time of a lease, in which its finder reports it and removes it; if
-- the finder dies, it is found again.
--
-- KEYS
--   1 alive          sorted set: incarnations by the time (s) of their latest renewal
--   2 reaper         hash: seen, when a reaper looked last; grace_until, the time before which no lease lapses; graces,
--                    how often that has been put off since a look that was not before it
--   3 expiring       sorted set: queued jobs by the time (s) of their expiry
--   4 expiring-jobs  hash: job -> JSON of it
--   5 stalling       sorted set: running jobs by the time (s) at which they count as stalled
--   6 stalling-jobs  hash: job -> JSON of the progress to report then
--   7 noted          sorted set: incarnations that run jobs and hold no lease, by the time (s) since when
--   8 lapsed         hash: incarnation -> how many reapers have found it, and are not done, see hold.lua
-- ARGV
--   1 lease           seconds that a lease lasts
--   2 pause           seconds between two looks of one reaper
--   3 expiry_grace    seconds after its expiry in which a worker may still report it itself
--   4 held_prefix     string: what the keys of the hashes `held` of hold.lua begin with
--   5 running_prefix  string: what the keys of the hashes `running` of hold.lua begin with
--
-- Returns {lost: incarnation, list of JSON, ...; expired: job, JSON, ...; stalled: JSON, ...}.

-- include: common

local alive_key, reaper_key, expiring_key, expiring_jobs_key, stalling_key, stalling_jobs_key, noted_key,
  lapsed_key = unpack(KEYS)
local lease, pause, expiry_grace, held_prefix, running_prefix = unpack(ARGV)
lease, pause, expiry_grace = tonumber(lease), tonumber(pause), tonumber(expiry_grace)
local now = common.now()
-- Seconds for which a reaper may take to report what it has found. One that dies does not say that it has done.
local LAPSED_TTL = 3600

-- Most times in a row that no lease lapses because nobody had looked.
local MOST_GRACES = 3

-- After a time in which nobody could look (Redis was away, say), no worker could renew its lease either: each is given
-- the time of a lease to come back. But where reapers are just slow, on a host that has too much to do, each look would
-- be the first after such a time, and no lease would lapse at all.
local function is_in_grace()
  local seen, grace_until, graces = unpack(redis.call('HMGET', reaper_key, 'seen', 'grace_until', 'graces'))
  seen, grace_until, graces = tonumber(seen or ''), tonumber(grace_until or ''), tonumber(graces or '') or 0
  if not seen or not grace_until or now - seen > 3 * pause then
    graces = graces + 1
    grace_until = graces <= MOST_GRACES and now + lease or now
  end
  if now >= grace_until then graces = 0 end
  redis.call('HSET', reaper_key, 'seen', now, 'grace_until', grace_until, 'graces', graces)
  redis.call('EXPIRE', reaper_key, math.ceil(lease * 10))
  return now < grace_until
end

-- The jobs that an incarnation runs as those that run them described them, then what its main process holds.
local function jobs_of(incarnation)
  local jobs = redis.call('HVALS', running_prefix .. incarnation)
  for _, job in ipairs(redis.call('HVALS', held_prefix .. incarnation)) do jobs[#jobs + 1] = job end
  return jobs
end

local function find_lost()
  local lost = {}
  for _, key in ipairs({alive_key, noted_key}) do
    for _, incarnation in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now - lease, 'LIMIT', 0, 10)) do
      redis.call('ZADD', key, now, incarnation)
      redis.call('HINCRBY', lapsed_key, incarnation, 1)
      redis.call('EXPIRE', lapsed_key, LAPSED_TTL)
      lost[#lost + 1] = incarnation
      lost[#lost + 1] = jobs_of(incarnation)
    end
  end
  return lost
end

local function find_expired()
  local expired = {}
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', expiring_key, '-inf', now - expiry_grace, 'LIMIT', 0, 100)) do
    redis.call('ZADD', expiring_key, now + lease, job)
    expired[#expired + 1] = job
    expired[#expired + 1] = redis.call('HGET', expiring_jobs_key, job) or ''
  end
  return expired
end

-- A stall is no end, so nothing depends on its report: it is forgotten at once.
local function take_stalled()
  local stalled = {}
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', stalling_key, '-inf', now, 'LIMIT', 0, 100)) do
    stalled[#stalled + 1] = redis.call('HGET', stalling_jobs_key, job) or ''
    redis.call('ZREM', stalling_key, job)
    redis.call('HDEL', stalling_jobs_key, job)
  end
  return stalled
end

return {is_in_grace() and {} or find_lost(), find_expired(), take_stalled()}
