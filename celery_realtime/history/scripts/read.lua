-- Read a project: the state of its jobs and workflows, and the events after a position, all of them or none.
--
-- Writes nothing, so that a Redis without free memory still answers, and made-up projects take no room. Only one of
-- which a part was lost goes on in a new epoch here, so that all readers are given the same one.
--
-- KEYS: as append.lua has them; without `server`
-- ARGV
--   1 new_epoch     string: random; the epoch to go on in, should something of this project be lost
--   2 since_epoch   string: epoch of the position that the caller has reached, '' for none
--   3 since_offset  number: offset of that position; -1: no events are asked for
--   4 max_missed    number: most events to return
--   5 ttl           seconds that a project without new events is kept
--   6 ended_ttl     seconds that a job is shown after its end
--   7 max_ended     number: most jobs that have ended to show
--   8 max_jobs      number: most jobs to return; 0: neither jobs nor workflows are asked for
--   9 max_bytes     number: most bytes of job entries, and most bytes of payloads
--
-- Returns {epoch, offset, whether the events are complete (1 or 0), events (of each the offset, below 0 if it is the
-- first of a newer run, the name and the JSON: nested lists take longer to read), entries of jobs (those that have not
-- ended first, and of each kind the latest first), number of jobs, workflows (root id and counts, ...), ids of these
-- jobs}.

-- include: common

local keys = common.project_keys()
local new_epoch, since_epoch, since_offset, max_missed, ttl, ended_ttl, max_ended, max_jobs, max_bytes = unpack(ARGV)
since_offset, max_missed, max_jobs = tonumber(since_offset), tonumber(max_missed), tonumber(max_jobs)
max_ended, max_bytes = tonumber(max_ended), tonumber(max_bytes)

-- What ended before this time has only not been forgotten yet, which append.lua does.
local shown_since = '(' .. (common.now() - tonumber(ended_ttl))

local function find_nothing_lost() return false end

-- Where memory has run out, what was lost cannot be restored, and each read answers with an epoch of its own until it
-- can.
local function open_project()
  if common.has_not_begun() then return common.next_epoch(keys) or new_epoch, 0 end
  local is_open, project = pcall(common.open, keys, new_epoch, find_nothing_lost, common.now(), tonumber(ttl))
  if is_open then return project.epoch, project.offset end
  return new_epoch, 0
end

-- Return what append.lua has stored of an event. JSON of what somebody else has stored is empty, and no JSON.
local function read_event(first, name, second, json, _, _, third)
  if first ~= 'e' or second ~= 'p' then return '', '' end
  return name, json, third == 'n'
end

-- A position of another epoch, or from the future, cannot be recovered. That is the caller's loss alone: if the server
-- has lost events, those that stored them will notice.
local function read_missed(epoch, offset)
  local count = offset - since_offset
  if since_epoch ~= epoch or since_offset < 0 or count < 0 or count > max_missed then return 0, {} end
  local entries = redis.call('XRANGE', keys.events, (since_offset + 1) .. '-0', '+')
  local bytes, missed = 0, {}
  for place, entry in ipairs(entries) do
    local name, json, is_new_run = read_event(unpack(entry[2]))
    bytes = bytes + #json
    missed[3 * place - 2] = is_new_run and -(since_offset + place) or since_offset + place
    missed[3 * place - 1] = name
    missed[3 * place] = json
  end
  if #entries ~= count or bytes > max_bytes then return 0, {} end
  return 1, missed
end

local function shown_ids()
  local ids = redis.call('ZREVRANGE', keys.live, 0, max_jobs - 1)
  local room = math.min(max_jobs - #ids, max_ended)
  if room > 0 then
    local ended = redis.call('ZREVRANGEBYSCORE', keys.ended, '+inf', shown_since, 'LIMIT', 0, room)
    for _, id in ipairs(ended) do ids[#ids + 1] = id end
  end
  return ids
end

local function read_jobs()
  local entries, shown, room, ids = {}, {}, max_bytes, shown_ids()
  for start = 1, #ids, 100 do
    for _, entry in ipairs(redis.call('HMGET', keys.jobs, unpack(ids, start, math.min(start + 99, #ids)))) do
      room = room - (entry and #entry or 0)
      if room < 0 then return entries, shown end
      entries[#entries + 1] = entry
      shown[#shown + 1] = ids[#entries]
    end
  end
  return entries, shown
end

local function count_jobs()
  local ended = redis.call('ZCARD', keys.ended)
  local shown = math.min(redis.call('ZCOUNT', keys.ended, shown_since, '+inf'), max_ended)
  return redis.call('HLEN', keys.jobs) - redis.call('ZCARD', keys.gone) - (ended - shown)
end

local function read_workflows()
  local is_over = {}
  for _, root in ipairs(redis.call('ZRANGEBYSCORE', keys.flows_ended, '-inf', string.sub(shown_since, 2))) do
    is_over[root] = true
  end
  local stored, shown = redis.call('HGETALL', keys.flows), {}
  for place = 1, #stored, 2 do
    local root, counts = stored[place], stored[place + 1]
    if not is_over[root] then
      shown[#shown + 1] = root
      shown[#shown + 1] = counts
    end
  end
  return shown
end

local epoch, offset = open_project()
local is_complete, missed = read_missed(epoch, offset)
if max_jobs == 0 then return {epoch, offset, is_complete, missed, {}, 0, {}, {}} end
local entries, ids = read_jobs()
return {epoch, offset, is_complete, missed, entries, count_jobs(), read_workflows(), ids}
