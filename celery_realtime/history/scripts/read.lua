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
--  10 page          JSON: which jobs to return, as an earlier answer says; none for the first ones, and the workflows
--
-- Jobs come in pages: those that have not ended first, and of each kind the latest first. A job that changes meanwhile
-- changes its place, too; so behind all others come those that have changed since the first page. Each job that there
-- was then is in a page as it was then or later, and what has happened since that page comes as events.
--
-- Returns {epoch, offset, whether the events are complete (1 or 0), events (of each the offset, below 0 if it is the
-- first of a newer run, the name and the JSON: nested lists take longer to read), entries of jobs, number of jobs,
-- workflows (root id and counts, ...), ids of these jobs, the next page, '' if there is none}.

-- include: common

local keys = common.project_keys()
local new_epoch, since_epoch, since_offset, max_missed, ttl, ended_ttl, max_ended, max_jobs, max_bytes,
  page = unpack(ARGV)
since_offset, max_missed, max_jobs = tonumber(since_offset), tonumber(max_missed), tonumber(max_jobs)
max_ended, max_bytes, page = tonumber(max_ended), tonumber(max_bytes), page or ''

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

-- Jobs ----------------------------------------------------------------------------------------------------------------

local entries, ids, room = {}, {}, max_bytes
local CHUNK = 100

-- Add jobs to the answer; return false if not all have room. A later page has one at least, or reading would not go on.
local function take(jobs)
  for start = 1, #jobs, CHUNK do
    local stored = redis.call('HMGET', keys.jobs, unpack(jobs, start, math.min(start + CHUNK - 1, #jobs)))
    for place, entry in ipairs(stored) do
      room = room - (entry and #entry or 0)
      if room < 0 and (page == '' or #ids > 0) then return false end
      entries[#entries + 1] = entry
      ids[#ids + 1] = jobs[start + place - 1]
    end
  end
  return true
end

-- Return how many members of a sorted set come up to a place, which is a score ('' for the beginning) and a member. That
-- may have moved since: then nothing of its score counts as read.
local function count_read(key, place, descends)
  local score, member = unpack(place)
  if score == '' then return 0 end
  if member ~= '' and redis.call('ZSCORE', key, member) == score then
    return redis.call(descends and 'ZREVRANK' or 'ZRANK', key, member) + 1
  end
  if descends then return redis.call('ZCOUNT', key, '(' .. score, '+inf') end
  return redis.call('ZCOUNT', key, '-inf', '(' .. score)
end

-- Read on in a sorted set, of which only the first so many members count. Returns whether all have been read, and the
-- place that has been reached.
local function read_on(key, place, descends, count)
  local start, had = count_read(key, place, descends), #ids
  local last = math.min(start + max_jobs - had, count) - 1
  local jobs = last >= start and redis.call(descends and 'ZREVRANGE' or 'ZRANGE', key, start, last) or {}
  local is_whole = take(jobs) and start + #jobs >= count
  if #ids == had then return is_whole, place end
  return is_whole, {redis.call('ZSCORE', key, ids[#ids]), ids[#ids]}
end

local function count_shown()
  return math.min(redis.call('ZCOUNT', keys.ended, shown_since, '+inf'), max_ended)
end

local LIVE, ENDED, CHANGED = 1, 2, 3
local BEGINNING = {'', ''}

-- Read a page, and return what the next one is.
local function read_page(offset)
  local first = {string.format('%d', offset), string.format('%.6f', common.now()), LIVE, BEGINNING, BEGINNING}
  local first_offset, first_time, section, place, ended_place = unpack(page == '' and first or cjson.decode(page))
  local is_read, is_ended_read
  local function this_one() return cjson.encode({first_offset, first_time, section, place, ended_place}) end

  if section == LIVE then
    is_read, place = read_on(keys.live, place, true, redis.call('ZCARD', keys.live))
    if not is_read then return this_one() end
    section = ENDED
  end
  if section == ENDED then
    is_read, ended_place = read_on(keys.ended, ended_place, true, count_shown())
    if not is_read then return this_one() end
    if page == '' then return '' end
    section, place, ended_place = CHANGED, {first_offset, ''}, {first_time, ''}
  end
  -- In one step, so that none is missed that ends, or goes on, in between.
  is_read, place = read_on(keys.live, place, false, redis.call('ZCARD', keys.live))
  is_ended_read, ended_place = read_on(keys.ended, ended_place, false, redis.call('ZCARD', keys.ended))
  return is_read and is_ended_read and '' or this_one()
end

local function count_jobs()
  local hidden = redis.call('ZCARD', keys.ended) - count_shown()
  return redis.call('HLEN', keys.jobs) - redis.call('ZCARD', keys.gone) - hidden
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
if max_jobs == 0 then return {epoch, offset, is_complete, missed, {}, 0, {}, {}, ''} end
local next_page = read_page(offset)
local workflows = page == '' and read_workflows() or {}
return {epoch, offset, is_complete, missed, entries, count_jobs(), workflows, ids, next_page}
