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
--   8 max_jobs      number: most jobs to return, 3 of a later page at least; 0: neither jobs nor workflows
--   9 max_bytes     number: most bytes of job entries, and most bytes of payloads
--  10 page          JSON: which jobs to return, as an earlier answer says; none for the first ones, and the workflows
--  11 ...           ids of jobs: these are returned in place of a page, as many of the first of them as have room
--
-- Jobs come in pages: those that have not ended first, and of each kind the latest first. A job that changes meanwhile
-- changes its place, too; so each page has, in up to half of its room, those that have changed since the page before,
-- whether that had them or not. After the last one a reader that has applied the events behind each page lacks nothing.
--
-- Returns {epoch, offset, whether the events are complete (1 or 0), events (of each the offset, below 0 if it is the
-- first of a newer run, the name and the JSON: nested lists take longer to read), entries of jobs (lists in msgpack),
-- number of jobs, workflows (root id and counts, ...), ids of these jobs (likewise), the next page ('' for none), what
-- these jobs have as metadata (likewise, false for nothing; no lists if no job of the project has any)}.

-- include: common

local keys = common.project_keys()
local new_epoch, since_epoch, since_offset, max_missed, ttl, ended_ttl, max_ended, max_jobs, max_bytes,
  page = unpack(ARGV)
since_offset, max_missed, max_jobs = tonumber(since_offset), tonumber(max_missed), tonumber(max_jobs)
max_ended, max_bytes, page = tonumber(max_ended), tonumber(max_bytes), page or ''

local now = common.now()
-- What ended before this time has only not been forgotten yet, which append.lua does.
local shown_since = '(' .. (now - tonumber(ended_ttl))

local function find_nothing_lost() return false end

-- Where memory has run out, what was lost cannot be restored, and each read answers with an epoch of its own until it
-- can.
local function open_project()
  if common.has_not_begun() then return common.next_epoch(keys) or new_epoch, 0, false end
  local is_open, project = pcall(common.open, keys, new_epoch, find_nothing_lost, now, tonumber(ttl))
  if is_open then return project.epoch, project.offset, project.has_metadata end
  return new_epoch, 0, false
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

local entries, ids, metadata, id_count, bytes_left = {}, {}, {}, 0, max_bytes
local has_metadata
local CHUNK = 100

-- Return how many of these entries have room, with their metadata. Of a later page the first always has.
local function count_fitting(stored, described, least, is_first)
  for place, entry in ipairs(stored) do
    local left = bytes_left - (entry and #entry or 0) - (described[place] and #described[place] or 0)
    if left < least and not (is_first and place == 1 and page ~= '') then return place - 1 end
    bytes_left = left
  end
  return #stored
end

-- Add jobs to the answer that have room in so many bytes; return how many have. A client reads a few long texts much
-- faster than many short ones.
local function take(jobs, bytes)
  local least = bytes_left - bytes
  for start = 1, #jobs, CHUNK do
    local chunk = {unpack(jobs, start, math.min(start + CHUNK - 1, #jobs))}
    local stored = redis.call('HMGET', keys.jobs, unpack(chunk))
    local described = has_metadata and redis.call('HMGET', keys.jobs, unpack(common.metadata_fields(chunk))) or {}
    local count = count_fitting(stored, described, least, start == 1)
    if count > 0 then
      if has_metadata then metadata[#metadata + 1] = cmsgpack.pack({unpack(described, 1, count)}) end
      ids[#ids + 1] = cmsgpack.pack({unpack(jobs, start, start + count - 1)})
      entries[#entries + 1] = cmsgpack.pack(count < #stored and {unpack(stored, 1, count)} or stored)
    end
    id_count = id_count + count
    if count < #stored then return start + count - 1 end
  end
  return #jobs
end

-- Return how many members of a sorted set come before those of a score.
local function count_before(key, score, descends)
  if descends then return redis.call('ZCOUNT', key, '(' .. score, '+inf') end
  return redis.call('ZCOUNT', key, '-inf', '(' .. score)
end

-- Return how many members of a sorted set come up to a place, which is a score ('' for the beginning), and how many of
-- how many members of that score, as "1/3". If there are not as many any more, one of them has moved: then nothing of
-- the score counts as read. A place does not name a job: the client that is given it may not see that one.
local function count_read(key, place, descends)
  local score, within = unpack(place)
  if score == '' then return 0 end
  local before, read, all = count_before(key, score, descends), string.match(within, '^(%d+)/(%d+)$')
  if all and redis.call('ZCOUNT', key, score, score) == tonumber(all) then return before + tonumber(read) end
  return before
end

-- Read on in a sorted set of which so many members count. Returns whether all have been read, and the place that is
-- reached.
local function read_on(key, place, count, descends, most, bytes)
  local start = count_read(key, place, descends)
  local last = math.min(start + most, count) - 1
  local jobs = last >= start and redis.call(descends and 'ZREVRANGE' or 'ZRANGE', key, start, last) or {}
  local taken = take(jobs, bytes)
  if taken > 0 and not (descends and start + taken >= count) then
    local score = redis.call('ZSCORE', key, jobs[taken])
    local read = start + taken - count_before(key, score, descends)
    place = {score, string.format('%d/%d', read, redis.call('ZCOUNT', key, score, score))}
  end
  return start + taken >= count, place
end

local function read_down(key, place, count)
  return read_on(key, place, count, true, math.max(max_jobs - id_count, page == '' and 0 or 1), bytes_left)
end

local function read_changed(key, place)
  return read_on(key, place, redis.call('ZCARD', key), false, math.max(math.floor(max_jobs / 4), 1), max_bytes / 4)
end

local live_count, shown_count

local function count_jobs()
  live_count = redis.call('ZCARD', keys.live)
  shown_count = math.min(redis.call('ZCOUNT', keys.ended, shown_since, '+inf'), max_ended)
  return live_count + shown_count
end

local LIVE, ENDED, OVER = 1, 2, 3
local BEGINNING = {'', ''}

-- Read a page, and return what the next one is.
local function read_page(offset)
  local section, place, changed, changed_ended = LIVE, BEGINNING, {string.format('%d', offset + 1), ''},
    {string.format('%.6f', now), ''}
  local is_read, are_changed_read, are_changed_ended_read = true, true, true
  if page ~= '' then
    section, place, changed, changed_ended = unpack(cjson.decode(page))
    are_changed_read, changed = read_changed(keys.live, changed)
    are_changed_ended_read, changed_ended = read_changed(keys.ended, changed_ended)
  end
  if section == LIVE then
    is_read, place = read_down(keys.live, place, live_count)
    if is_read then section, place = ENDED, BEGINNING end
  end
  if section == ENDED then
    is_read, place = read_down(keys.ended, place, shown_count)
    if is_read then section, place = OVER, BEGINNING end
  end
  if is_read and are_changed_read and are_changed_ended_read then return '' end
  return cjson.encode({section, place, changed, changed_ended})
end

-- The counts of workflows, but for those that ended before what is shown.
local function read_workflows()
  local stored, shown, is_over = redis.call('HGETALL', keys.flows), {}, {}
  if #stored == 0 then return shown end
  for _, root in ipairs(redis.call('ZRANGEBYSCORE', keys.flows_ended, '-inf', string.sub(shown_since, 2))) do
    is_over[root] = true
  end
  for place = 1, #stored, 2 do
    local root, counts = stored[place], stored[place + 1]
    if not is_over[root] then
      shown[#shown + 1] = root
      shown[#shown + 1] = counts
    end
  end
  return shown
end

local epoch, offset
epoch, offset, has_metadata = open_project()
local is_complete, missed = read_missed(epoch, offset)
if max_jobs == 0 then return {epoch, offset, is_complete, missed, {}, 0, {}, {}, '', {}} end
local job_count = count_jobs()
local wanted = {unpack(ARGV, 11)}
if #wanted > 0 then
  take(wanted, max_bytes)
  return {epoch, offset, is_complete, missed, entries, job_count, {}, ids, '', metadata}
end
local next_page = read_page(offset)
local workflows = page == '' and read_workflows() or {}
return {epoch, offset, is_complete, missed, entries, job_count, workflows, ids, next_page, metadata}
