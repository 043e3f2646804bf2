-- Shared by scripts that begin with "-- include: common"; the loader puts this text in place of that line.

local common = {}

-- The server's clock in seconds: the clocks of workers and web servers may differ.
function common.now()
  local seconds, microseconds = unpack(redis.call('TIME'))
  return tonumber(seconds) + tonumber(microseconds) / 1000000
end

-- Return a project's epoch (nil for none), its newest offset, and the number of entries that its `jobs` should have.
function common.read_meta(meta_key)
  local epoch, offset, job_count = unpack(redis.call('HMGET', meta_key, 'epoch', 'offset', 'jobs'))
  return epoch or nil, tonumber(offset or 0), tonumber(job_count or 0)
end

-- Tell whether a project's keys agree. What one key lacks and another has was evicted, or lost in a failover.
function common.is_whole(keys, epoch, offset, job_count)
  local is_offset = offset and offset >= 0 and offset < 1e13 and offset % 1 == 0
  if not epoch or not is_offset then return false end
  if job_count ~= redis.call('HLEN', keys.jobs) then return false end
  local beyond = redis.call('XRANGE', keys.events, (offset + 1) .. '-0', '+', 'COUNT', 1)
  if #beyond > 0 then return false end
  return offset == 0 or redis.call('EXISTS', keys.events) == 1
end
