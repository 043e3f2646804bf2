-- Shared by scripts that begin with "-- include: common"; the loader puts this text in place of that line.

local common = {}

-- The server's clock in seconds: the clocks of workers and web servers may differ.
function common.now()
  local seconds, microseconds = unpack(redis.call('TIME'))
  return tonumber(seconds) + tonumber(microseconds) / 1000000
end

-- The keys of a project, which append.lua describes, by their names.
function common.project_keys()
  return {
    meta = KEYS[1], events = KEYS[2], jobs = KEYS[3], ended = KEYS[4], flows = KEYS[5], live = KEYS[6],
    flows_ended = KEYS[7], gone = KEYS[8], flows_due = KEYS[9], begun = KEYS[10],
  }
end

-- Sorted sets -------------------------------------------------------------------------------------------------------

local was_taken_from = {}

-- Whether a key may have been emptied, and made anew, in this call: then it does not expire yet.
common.may_be_new = false

-- Add members, each behind its score.
function common.add(key, ...)
  redis.call('ZADD', key, ...)
  if was_taken_from[key] then common.may_be_new = true end
end

function common.take(key, member)
  if redis.call('ZREM', key, member) == 1 then was_taken_from[key] = true end
end

-- Jobs ----------------------------------------------------------------------------------------------------------------

-- An entry has three lines: "attempt rank percent status-offset progress-offset incarnation kind share root run
-- execution started ended clock", the latest status, the latest progress (JSON, or empty). Of a job that is gone only
-- the first line is left. Behind the incarnation stand those that have had the attempt before, with commas before them.
-- `ended` is the time (ms) of the end, 0 for none. `clock`, where it is known, is `started` (us) by the clock of the
-- host, with an `r` behind it if the message was delivered before. For the rest see append.lua. A root `=` is the job
-- itself. Of JSON that begins as all of the job's does, `~` or `^` stands for that: the name, the job's id and the
-- project; see append.lua.
local HEAD = '^(%S+) ([012LEBD]) (%S+) (%d+) (%d+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) '
  .. '(%d+) (%d+) ?(%d*)(r?)'
local KINDS = {queued = true, running = true, done = true, failed = true}

-- Return what the entry of a job says; nil if it cannot be read: it must not keep out all that comes after it.
function common.parse_job(job, entry)
  local attempt, rank, percent, status_at, progress_at, incarnation, kind, share, root, run, execution, started, ended,
    clock, redelivered = string.match(entry, HEAD)
  attempt, percent, share = tonumber(attempt), tonumber(percent), tonumber(share)
  local comma, former = incarnation and string.find(incarnation, ',', 1, true), ''
  if comma then incarnation, former = string.sub(incarnation, 1, comma - 1), string.sub(incarnation, comma) end
  if not (attempt and percent and share and KINDS[kind]) then return nil end
  -- Looked for as plain text, which takes a fraction of the time of a pattern.
  local head_end = string.find(entry, '\n', 1, true) or #entry + 1
  local status_end = string.find(entry, '\n', head_end + 1, true) or #entry + 1
  local status, progress = string.sub(entry, head_end + 1, status_end - 1), string.sub(entry, status_end + 1)
  return {
    attempt = attempt, rank = rank, percent = percent, status_at = tonumber(status_at),
    progress_at = tonumber(progress_at), incarnation = incarnation, former = former, kind = kind, share = share,
    root = root == '=' and job or root, run = run, execution = execution, started = tonumber(started),
    ended = tonumber(ended), clock = tonumber(clock) or -1, is_redelivered = redelivered == 'r',
    status = status, progress = progress, is_gone = status == '' and progress == '',
  }
end

-- The metadata of a job is another field of `jobs`, which begins with this, before the job's id. It has a line for each
-- member: JSON of the key, a colon, and JSON of the value. `meta` says in `metadata` whether there are any.
common.METADATA = '\0metadata:'

-- Return the job that a field of `jobs` has the metadata of; nil of the entry of a job.
function common.job_of_metadata(field)
  local length = #common.METADATA
  return string.sub(field, 1, length) == common.METADATA and string.sub(field, length + 1) or nil
end

function common.metadata_fields(jobs)
  local fields = {}
  for place, job in ipairs(jobs) do fields[place] = common.METADATA .. job end
  return fields
end

-- Workflows -----------------------------------------------------------------------------------------------------------

-- The counts of a workflow in the order in which they are stored: jobs in all and of each kind, the sum of the jobs'
-- percentages, the progress, and the time (ms) of the latest update, 0 for none.
local FLOW = {'total', 'queued', 'running', 'done', 'failed', 'share', 'progress', 'updated'}

function common.new_flow()
  return {total = 0, queued = 0, running = 0, done = 0, failed = 0, share = 0, progress = -1, updated = 0}
end

function common.parse_flow(stored)
  local numbers = {}
  for number in string.gmatch(stored, '%S+') do numbers[#numbers + 1] = tonumber(number) end
  if #numbers ~= #FLOW then return nil end
  local flow = {}
  for place, name in ipairs(FLOW) do flow[name] = numbers[place] end
  return flow
end

-- Add a job to the counts of a workflow, or, with by = -1, take it out.
function common.count_job(flow, job, by)
  flow[job.kind] = flow[job.kind] + by
  flow.share = flow.share + by * job.share
end

function common.is_over(flow) return flow.queued + flow.running == 0 end

-- A little more than the mean, so that sums of fractions reach the whole number that they stand for.
function common.progress_of(flow) return math.floor(flow.share / flow.total + 0.000001) end

function common.write_flow(keys, root, flow, now)
  local words = {}
  for place, name in ipairs(FLOW) do
    words[place] = name == 'updated' and string.format('%d', flow.updated) or flow[name]
  end
  redis.call('HSET', keys.flows, root, table.concat(words, ' '))
  if common.is_over(flow) then
    common.add(keys.flows_ended, now, root)
  else
    common.take(keys.flows_ended, root)
  end
end

-- The project ---------------------------------------------------------------------------------------------------------

local META, LAST = 1, 9
-- The key of another kind that append.lua takes, which is kept by those who watch.
local WATCHED = 11
-- Part of the time that a project is kept, after which its keys are given the whole time again.
local RENEWAL = 0.01

-- Projects of which `begun` knows that they have begun. Beyond them it is made anew.
local MOST_BEGUN = 20000

-- Return the epoch in which a project will begin; nil where there is no `begun`.
--
-- Nothing of a project is stored before it begins, and all who ask before are told the same epoch: it is made of the id
-- of `begun`, of how often the project has begun before, and of the server's process, whose data may be older than
-- what the process before it had. So no epoch comes a second time, whatever is lost.
function common.next_epoch(keys)
  local id, times = unpack(redis.call('HMGET', keys.begun, 'id', keys.meta))
  if not id then return nil end
  local info = redis.pcall('INFO', 'server')
  local process = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
  return string.sub(redis.sha1hex(id .. process .. keys.meta .. (times or '0')), 1, 8)
end

-- Whether nothing is stored of a project.
function common.has_not_begun() return redis.call('EXISTS', unpack(KEYS, META, LAST)) == 0 end

-- Count the keys of a project that exist, but for `meta`.
local function count_keys() return redis.call('EXISTS', unpack(KEYS, META + 1, LAST)) end

-- Write down where a project stands, and in the same step what `project.noted`, if there is such a list, says of fields
-- of `meta`. Returns how many fields are new.
function common.close(keys, project, now, ttl)
  local key_count = count_keys()
  local renews = common.may_be_new or key_count ~= project.key_count or now - project.renewed > ttl * RENEWAL
  if renews then project.renewed = now end
  local added = redis.call('HSET', keys.meta, 'epoch', project.epoch, 'offset', project.offset, 'keys', key_count,
    'renewed', project.renewed, 'due', project.due or '', unpack(project.noted or {}))
  if renews then
    for place, key in ipairs(KEYS) do
      if place ~= WATCHED then redis.call('EXPIRE', key, math.ceil(ttl)) end
    end
  end
  return added
end

local function is_offset(number) return number and number >= 0 and number < 1e13 and number % 1 == 0 end

-- Return the highest offset that anything of a project is known by.
local function find_offset(keys, offset)
  local highest = is_offset(offset) and offset or 0
  local newest = redis.call('XREVRANGE', keys.events, '+', '-', 'COUNT', 1)[1]
  local latest = redis.call('ZREVRANGE', keys.live, 0, 0, 'WITHSCORES')
  for _, text in ipairs({newest and string.match(newest[1], '^%d+') or '', latest[2] or ''}) do
    local number = tonumber(text)
    if is_offset(number) and number > highest then highest = number end
  end
  return highest
end

-- Restore from the entries of jobs all that can be: everything but the events. Its parts stand inside, so that a call
-- that restores nothing does not make them.
local function restore(keys, now)
  local function file_job(job, state)
    local ended = state.ended > 0 and state.ended / 1000 or now
    if state.is_gone then
      redis.call('ZADD', keys.gone, ended, job)
    elseif state.ended > 0 then
      redis.call('ZADD', keys.ended, ended, job)
    else
      redis.call('ZADD', keys.live, math.max(state.status_at, state.progress_at), job)
    end
  end

  -- File each job again by its entry; return what the entries say, by the ids of the jobs.
  local function file_jobs()
    redis.call('DEL', keys.live, keys.ended, keys.gone)
    local stored, states, described = redis.call('HGETALL', keys.jobs), {}, {}
    for place = 1, #stored, 2 do
      local job, state = stored[place], common.parse_job(stored[place], stored[place + 1])
      local owner = common.job_of_metadata(job)
      if owner then
        described[owner] = true
      elseif state then
        states[job] = state
        file_job(job, state)
      else
        redis.call('HDEL', keys.jobs, job)
      end
    end
    for job in pairs(described) do
      if not states[job] then redis.call('HDEL', keys.jobs, common.METADATA .. job) end
    end
    if next(described) then redis.call('HSET', keys.meta, 'metadata', 1) end
    return states, next(described) ~= nil
  end

  local function count_workflows_anew(states)
    redis.call('DEL', keys.flows)
    local flows, is_shown = {}, {}
    for _, state in pairs(states) do
      local flow = flows[state.root] or common.new_flow()
      flows[state.root] = flow
      flow.total = flow.total + 1
      common.count_job(flow, state, 1)
      if not state.is_gone then is_shown[state.root] = true end
    end
    flows['-'] = nil
    for root, flow in pairs(flows) do
      flow.progress = common.progress_of(flow)
      -- A root alone is no workflow yet, see begin_flow in append.lua.
      local is_flow = flow.total > 1 or not states[root]
      if is_flow and is_shown[root] then common.write_flow(keys, root, flow, now) end
    end
  end

  local function file_workflows()
    local stored = redis.call('HGETALL', keys.flows)
    for place = 1, #stored, 2 do
      local root, flow = stored[place], common.parse_flow(stored[place + 1])
      if flow then common.write_flow(keys, root, flow, now) else redis.call('HDEL', keys.flows, root) end
    end
  end

  redis.call('DEL', keys.events, keys.flows_ended, keys.flows_due)
  local states, has_metadata = file_jobs()
  local has_flows = next(states) and redis.call('EXISTS', keys.flows) == 1
  if has_flows then file_workflows() else count_workflows_anew(states) end
  return has_metadata
end

local function begin(keys, new_epoch, now, ttl)
  local project = {epoch = common.next_epoch(keys) or new_epoch, offset = 0, renewed = 0}
  -- Written first: where memory has run out, this fails, and nothing is changed.
  redis.call('HSET', keys.meta, 'epoch', project.epoch, 'offset', 0)
  if redis.call('HLEN', keys.begun) > MOST_BEGUN then redis.call('DEL', keys.begun) end
  redis.call('HSETNX', keys.begun, 'id', new_epoch)
  redis.call('HINCRBY', keys.begun, keys.meta, 1)
  common.close(keys, project, now, ttl)
  return project
end

-- Return where a project stands: {epoch, offset of its newest event, key_count, renewed, due, has_metadata}.
--
-- In `meta` stands how many of its keys there were after the latest write: keys are evicted as wholes. If one was, the
-- project goes on in a new epoch with what is still known, and gives no offset away a second time. So does one of which
-- the caller knows that something was lost; and a new one begins.
--
-- Args: the names of keys; the epoch to go on in; a function that tells of an epoch and offset whether something is
-- known to be lost, and up to which offset; the time; the seconds that the project is kept.
function common.open(keys, new_epoch, find_lost, now, ttl)
  local epoch, stored_offset, stored_count, renewed, due, has_metadata = unpack(redis.call('HMGET', keys.meta, 'epoch',
    'offset', 'keys', 'renewed', 'due', 'metadata'))
  local offset, key_count = tonumber(stored_offset or ''), count_keys()
  local is_lost, lost_offset = find_lost(epoch, offset)
  if epoch and is_offset(offset) and tonumber(stored_count or '') == key_count and not is_lost then
    local beyond = redis.call('XRANGE', keys.events, string.format('%d-0', offset + 1), '+', 'COUNT', 1)
    if #beyond == 0 then
      return {epoch = epoch, offset = offset, key_count = key_count, renewed = tonumber(renewed or '') or 0,
        due = tonumber(due or ''), has_metadata = has_metadata and true or false}
    end
  end
  if not epoch and not stored_offset and key_count == 0 then return begin(keys, new_epoch, now, ttl) end
  local project = {epoch = new_epoch, offset = math.max(find_offset(keys, offset), lost_offset or 0), renewed = 0}
  -- Written first: where memory has run out, this fails, and nothing is changed.
  redis.call('HSET', keys.meta, 'epoch', new_epoch, 'offset', project.offset)
  project.has_metadata = restore(keys, now)
  common.close(keys, project, now, ttl)
  return project
end
