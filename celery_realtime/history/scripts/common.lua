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
    flows_ended = KEYS[7], gone = KEYS[8], flows_due = KEYS[9],
  }
end

-- Jobs ----------------------------------------------------------------------------------------------------------------

-- An entry has three lines: "attempt rank percent status-offset progress-offset incarnation kind share root run
-- execution started ended", the latest status, the latest progress (JSON, or empty). Of a job that is gone only the
-- first line is left. `ended` is the time (ms) of the end, 0 for none; for the rest see append.lua.
local HEAD = '^(%S+) ([012LE]) (%S+) (%d+) (%d+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%d+) (%d+)'
local ENTRY = HEAD .. '\n?([^\n]*)\n?(.*)$'
local KINDS = {queued = true, running = true, done = true, failed = true}

-- Return what an entry says; nil if it cannot be read: it must not keep out all that comes after it.
function common.parse_job(entry)
  local attempt, rank, percent, status_at, progress_at, incarnation, kind, share, root, run, execution, started, ended,
    status, progress = string.match(entry, ENTRY)
  attempt, percent, share = tonumber(attempt), tonumber(percent), tonumber(share)
  if not (attempt and percent and share and KINDS[kind]) then return nil end
  return {
    attempt = attempt, rank = rank, percent = percent, status_at = tonumber(status_at),
    progress_at = tonumber(progress_at), incarnation = incarnation, kind = kind, share = share, root = root, run = run,
    execution = execution, started = tonumber(started), ended = tonumber(ended), status = status, progress = progress,
    is_gone = status == '' and progress == '',
  }
end

-- Workflows -----------------------------------------------------------------------------------------------------------

-- The counts of a workflow in the order in which they are stored: jobs in all and of each kind, the sum of the jobs'
-- percentages, the progress, and the time (ms) of the latest update, 0 for none.
local FLOW = {'total', 'queued', 'running', 'done', 'failed', 'share', 'progress', 'told'}

function common.new_flow()
  return {total = 0, queued = 0, running = 0, done = 0, failed = 0, share = 0, progress = -1, told = 0}
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
  for place, name in ipairs(FLOW) do words[place] = name == 'told' and string.format('%d', flow.told) or flow[name] end
  redis.call('HSET', keys.flows, root, table.concat(words, ' '))
  if common.is_over(flow) then
    redis.call('ZADD', keys.flows_ended, now, root)
  else
    redis.call('ZREM', keys.flows_ended, root)
  end
end

-- The project ---------------------------------------------------------------------------------------------------------

-- Count what each key of a project holds.
local function count(keys)
  return {
    jobs = redis.call('HLEN', keys.jobs), live = redis.call('ZCARD', keys.live),
    ended = redis.call('ZCARD', keys.ended), gone = redis.call('ZCARD', keys.gone),
    flows = redis.call('HLEN', keys.flows), flows_ended = redis.call('ZCARD', keys.flows_ended),
    flows_due = redis.call('ZCARD', keys.flows_due), events = redis.call('EXISTS', keys.events),
  }
end

local function describe_counts(counts)
  return string.format('%d %d %d %d %d %d %d %d', counts.jobs, counts.live, counts.ended, counts.gone, counts.flows,
    counts.flows_ended, counts.flows_due, counts.events)
end

-- Write down where a project stands, and what each of its keys holds: see common.open.
function common.close(keys, epoch, offset, ttl)
  redis.call('HSET', keys.meta, 'epoch', epoch, 'offset', offset, 'counts', describe_counts(count(keys)))
  for _, key in pairs(keys) do redis.call('EXPIRE', key, math.ceil(ttl)) end
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

local function file_job(keys, job, state, now)
  local ended = state.ended > 0 and state.ended / 1000 or now
  if state.is_gone then
    redis.call('ZADD', keys.gone, ended, job)
  elseif state.ended > 0 then
    redis.call('ZADD', keys.ended, ended, job)
  else
    redis.call('ZADD', keys.live, math.max(state.status_at, state.progress_at), job)
  end
end

-- File each job again by its entry; return the jobs.
local function file_jobs(keys, now)
  redis.call('DEL', keys.live, keys.ended, keys.gone)
  local stored, states = redis.call('HGETALL', keys.jobs), {}
  for place = 1, #stored, 2 do
    local job, state = stored[place], common.parse_job(stored[place + 1])
    if state then
      states[#states + 1] = state
      file_job(keys, job, state, now)
    else
      redis.call('HDEL', keys.jobs, job)
    end
  end
  return states
end

local function count_workflows_anew(keys, states, now)
  redis.call('DEL', keys.flows)
  local flows = {}
  for _, state in ipairs(states) do
    local flow = flows[state.root] or common.new_flow()
    flows[state.root] = flow
    flow.total = flow.total + 1
    common.count_job(flow, state, 1)
  end
  flows['-'] = nil
  for root, flow in pairs(flows) do
    flow.progress = common.progress_of(flow)
    if flow.total > 1 then common.write_flow(keys, root, flow, now) end
  end
end

local function file_workflows(keys, now)
  local stored = redis.call('HGETALL', keys.flows)
  for place = 1, #stored, 2 do
    local root, flow = stored[place], common.parse_flow(stored[place + 1])
    if flow then common.write_flow(keys, root, flow, now) else redis.call('HDEL', keys.flows, root) end
  end
end

-- Go on in a new epoch with what is still known: the entries of jobs, from which all but the events can be restored.
local function heal(keys, epoch, offset, has_flows, now, ttl)
  redis.call('HSET', keys.meta, 'epoch', epoch, 'offset', offset, 'counts', '')
  redis.call('DEL', keys.events, keys.flows_ended, keys.flows_due)
  local states = file_jobs(keys, now)
  if has_flows and #states > 0 then file_workflows(keys, now) else count_workflows_anew(keys, states, now) end
  common.close(keys, epoch, offset, ttl)
end

-- Return a project's epoch and newest offset.
--
-- In `meta` stands what each key held after the latest write. What differs was evicted, or lost in a failover: the
-- project goes on in a new epoch then, in which no offset is given away a second time. So does one of which the caller
-- knows that it was lost, and a new one begins in it.
--
-- Args: the names of keys; the epoch to go on in; a function that tells of an epoch and offset whether something is
-- known to be lost, and up to which offset; the time; the seconds that the project is kept.
function common.open(keys, new_epoch, find_lost, now, ttl)
  local epoch, stored_offset, stored_counts = unpack(redis.call('HMGET', keys.meta, 'epoch', 'offset', 'counts'))
  local offset, counts = tonumber(stored_offset or ''), count(keys)
  local is_whole = epoch and is_offset(offset) and stored_counts == describe_counts(counts)
  local is_lost, lost_offset = find_lost(epoch, offset)
  if is_whole and not is_lost then
    local beyond = redis.call('XRANGE', keys.events, string.format('%d-0', offset + 1), '+', 'COUNT', 1)
    if #beyond == 0 then return epoch, offset end
  end
  local jobs, flows = string.match(stored_counts or '', '^(%d+) %d+ %d+ %d+ (%d+) ')
  local has_flows = not jobs or tonumber(jobs) == counts.jobs and tonumber(flows) == counts.flows
  offset = math.max(find_offset(keys, offset), lost_offset or 0)
  heal(keys, new_epoch, offset, has_flows and counts.flows > 0, now, ttl)
  return new_epoch, offset
end
