-- Store events of one project. Decides which of them are news, gives those their offsets, keeps the state of their jobs
-- and the counts of their workflows, all in one step on the server.
--
-- KEYS, all of one project
--   1 meta         hash: epoch; offset, of the newest event; jobs, the number of entries in `jobs`
--   2 events       stream with ids <offset>-0: e, the event's name; p, its JSON; t, when it was stored; b, its tag
--   3 jobs         hash: job id -> entry, see read_job
--   4 ended        sorted set: ids of jobs that have ended, by the time (s) of their end
--   5 flows        hash: root id -> counts of a workflow, see FLOW
--   6 live         sorted set: ids of jobs that have not ended, by the offset of their latest event
--   7 flows-ended  sorted set: root ids of workflows of which no job is queued or running, by time (s)
--   8 server       string, only where Sentinels choose the server: which server stored the latest event
-- ARGV
--   1 new_epoch         string: the epoch to begin with, should this project have to begin anew
--   2 max_events        number: entries that each of `events`, `ended` and `flows-ended` keep
--   3 ttl               seconds that a project without new events is kept
--   4 ended_ttl         seconds that a job is kept after its end
--   5 timestamp         JSON string: the time that workflow updates carry
--   6 project_id        JSON string
--   7 witnessed_epoch   string: the latest epoch that the caller has seen of this project, or ''
--   8 witnessed_offset  number: the highest offset that the caller has seen in that epoch
--   9 max_live          number: entries that `live` keeps
--  10 descriptions      msgpack: a list for each event, see describe
--  11 ...               JSON: the payload of each event
--
-- Returns {epoch, offsets as one text with blanks between (0: not news), workflow updates {index, JSON, offset}}.

-- include: common

local keys = {
  meta = KEYS[1], events = KEYS[2], jobs = KEYS[3], ended = KEYS[4], flows = KEYS[5], live = KEYS[6],
  flows_ended = KEYS[7], server = KEYS[8],
}
local new_epoch, max_events, ttl, ended_ttl, timestamp, project_id, witnessed_epoch, witnessed_offset, max_live,
  descriptions = unpack(ARGV, 1, 10)
local FIRST_PAYLOAD = 11
max_events, ttl, ended_ttl, max_live = tonumber(max_events), tonumber(ttl), tonumber(ended_ttl), tonumber(max_live)
witnessed_offset = tonumber(witnessed_offset)

-- Ranks of a job within one attempt. LOST ends a job as ENDED does, but a later run or end reopens it.
local QUEUED, RUNNING, ENDED, LOST = '0', '1', '2', 'L'
-- In place of a rank: an expiry that only a reaper has seen, progress, a custom event.
local EXPIRED, PROGRESS, CUSTOM = 'E', 'p', 'c'

local WORKFLOW_EVENT = 'agent_workflow'
-- The counts of a workflow in the order in which they are stored: jobs in all and of each kind, the sum of the jobs'
-- percentages, and the progress of the latest update.
local FLOW = {'total', 'queued', 'running', 'done', 'failed', 'share', 'progress'}
local KINDS = {queued = true, running = true, done = true, failed = true}

local now = common.now()
local epoch, offset
local workflow_updates = {}

local function describe(index, fields)
  local name, job, attempt, rank, percent, incarnation, kind, root, tag = unpack(fields)
  -- A question mark before the tag: the event may have been stored already, and the answer was lost.
  local is_doubtful = string.sub(tag, 1, 1) == '?'
  return {
    index = index, name = name, job = job, attempt = attempt, rank = rank, percent = percent,
    incarnation = incarnation, kind = kind, root = root, is_doubtful = is_doubtful,
    tag = is_doubtful and string.sub(tag, 2) or tag, payload = ARGV[FIRST_PAYLOAD + index],
  }
end

-- The project ---------------------------------------------------------------------------------------------------------

local function begin_anew()
  epoch, offset = new_epoch, 0
  redis.call('DEL', keys.meta, keys.events, keys.jobs, keys.ended, keys.flows, keys.live, keys.flows_ended)
end

-- Behind Sentinels, a server that takes over may lack the newest events, and would give their offsets away a second
-- time. So it counts on in an epoch of its own, and keeps no event of the one before but the newest.
local function succeed()
  local info = redis.pcall('INFO', 'replication')
  local server = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or 'unknown'
  if redis.call('GET', keys.server) == server then return end
  redis.call('SET', keys.server, server, 'EX', math.ceil(ttl))
  if not epoch then return end
  epoch = new_epoch
  redis.call('XTRIM', keys.events, 'MAXLEN', 1)
end

local function open_project()
  local job_count
  epoch, offset, job_count = common.read_meta(keys.meta)
  if keys.server then succeed() end
  -- The server has lost what the caller itself has stored there.
  local has_lost_events = epoch == witnessed_epoch and offset and witnessed_offset > offset
  if has_lost_events or not common.is_whole(keys, epoch, offset, job_count) then begin_anew() end
end

local function forget_jobs_that_ended_long_ago()
  local jobs = redis.call('ZRANGEBYSCORE', keys.ended, '-inf', now - ended_ttl, 'LIMIT', 0, 100)
  local surplus = math.min(redis.call('ZCARD', keys.ended) - max_events, 100)
  if surplus > 0 then
    for _, job in ipairs(redis.call('ZRANGE', keys.ended, 0, surplus - 1)) do jobs[#jobs + 1] = job end
  end
  if #jobs == 0 then return end
  redis.call('HDEL', keys.jobs, unpack(jobs))
  redis.call('ZREM', keys.ended, unpack(jobs))
end

local function forget_workflows_that_ended_long_ago()
  local roots = redis.call('ZRANGEBYSCORE', keys.flows_ended, '-inf', now - ended_ttl, 'LIMIT', 0, 100)
  local surplus = math.min(redis.call('ZCARD', keys.flows_ended) - max_events, 100)
  if surplus > 0 then
    for _, root in ipairs(redis.call('ZRANGE', keys.flows_ended, 0, surplus - 1)) do roots[#roots + 1] = root end
  end
  if #roots == 0 then return end
  redis.call('HDEL', keys.flows, unpack(roots))
  redis.call('ZREM', keys.flows_ended, unpack(roots))
end

-- Jobs whose end nobody reported would stay for ever in a project that is never quiet.
local function forget_live_jobs_that_were_silent_longest()
  local surplus = math.min(redis.call('ZCARD', keys.live) - max_live, 100)
  if surplus <= 0 then return end
  local jobs = redis.call('ZRANGE', keys.live, 0, surplus - 1)
  redis.call('HDEL', keys.jobs, unpack(jobs))
  redis.call('ZREM', keys.live, unpack(jobs))
end

-- The length of the stream bounds its size, this its age; the oldest few at each append are enough.
local function forget_old_events()
  for _, entry in ipairs(redis.call('XRANGE', keys.events, '-', '+', 'COUNT', 4)) do
    local id, fields = entry[1], entry[2]
    local stored_at = tonumber(fields[6] or '') or 0
    if stored_at < now - ttl then redis.call('XDEL', keys.events, id) end
  end
end

local function close_project()
  forget_jobs_that_ended_long_ago()
  forget_workflows_that_ended_long_ago()
  forget_live_jobs_that_were_silent_longest()
  forget_old_events()
  redis.call('HSET', keys.meta, 'epoch', epoch, 'offset', offset, 'jobs', redis.call('HLEN', keys.jobs))
  for _, key in pairs(keys) do redis.call('EXPIRE', key, math.ceil(ttl)) end
end

-- Events --------------------------------------------------------------------------------------------------------------

local function store(name, payload, tag)
  offset = offset + 1
  local id = offset .. '-0'
  redis.call('XADD', keys.events, 'MAXLEN', '~', max_events, id, 'e', name, 'p', payload, 't', now, 'b', tag)
  return offset
end

local function read_offsets_by_tag()
  local offsets = {}
  for _, entry in ipairs(redis.call('XREVRANGE', keys.events, '+', '-', 'COUNT', 1000)) do
    local id, name, tag = entry[1], entry[2][2], entry[2][8]
    -- A workflow update has the tag of the event that led to it.
    if tag and name ~= WORKFLOW_EVENT and not offsets[tag] then offsets[tag] = tonumber(string.match(id, '%d+')) end
  end
  return offsets
end

local offsets_by_tag

-- Return the offset of a doubtful event that has been stored before. The stream is looked through once for all of them:
-- after a hiccup, whole batches are doubtful in all processes at once.
local function find_stored(event)
  if not event.is_doubtful then return nil end
  offsets_by_tag = offsets_by_tag or read_offsets_by_tag()
  return offsets_by_tag[event.tag]
end

-- Jobs ----------------------------------------------------------------------------------------------------------------

-- An entry has three lines: "attempt rank percent status-offset progress-offset incarnation kind share root", the
-- latest status, the latest progress (JSON, or empty). An entry that cannot be read counts as none, and is written
-- anew: it must not keep out all that comes after it.
local function read_job(job)
  local entry = redis.call('HGET', keys.jobs, job)
  if not entry then return nil end
  local attempt, rank, percent, status_at, progress_at, incarnation, kind, share, root, status, progress = string.match(
    entry, '^(%S+) ([012L]) (%S+) (%d+) (%d+) (%S+) (%S+) (%S+) (%S+)\n([^\n]*)\n(.*)$')
  attempt, percent, share = tonumber(attempt), tonumber(percent), tonumber(share)
  if not (attempt and percent and share and KINDS[kind]) then return nil end
  return {
    attempt = attempt, rank = rank, percent = percent, status_at = tonumber(status_at),
    progress_at = tonumber(progress_at), incarnation = incarnation, kind = kind, share = share, root = root,
    status = status, progress = progress,
  }
end

local function write_job(job, state)
  local head = string.format('%d %s %s %d %d %s %s %s %s', state.attempt, state.rank, state.percent, state.status_at,
    state.progress_at, state.incarnation, state.kind, state.share, state.root)
  redis.call('HSET', keys.jobs, job, head .. '\n' .. state.status .. '\n' .. state.progress)
end

local function has_ended(state) return state.rank == ENDED or state.rank == LOST end

-- Workflows -----------------------------------------------------------------------------------------------------------

local function read_flow(root)
  local numbers = {}
  for number in string.gmatch(redis.call('HGET', keys.flows, root) or '', '%S+') do
    numbers[#numbers + 1] = tonumber(number)
  end
  if #numbers ~= #FLOW then return nil end
  local flow = {}
  for place, name in ipairs(FLOW) do flow[name] = numbers[place] end
  return flow
end

local function write_flow(root, flow)
  local numbers = {}
  for place, name in ipairs(FLOW) do numbers[place] = flow[name] end
  redis.call('HSET', keys.flows, root, table.concat(numbers, ' '))
  if flow.queued + flow.running == 0 then
    redis.call('ZADD', keys.flows_ended, now, root)
  else
    redis.call('ZREM', keys.flows_ended, root)
  end
end

local function count_job(flow, state, by)
  flow[state.kind] = flow[state.kind] + by
  flow.share = flow.share + by * state.share
end

-- A root counts itself only once there is a second job: most jobs are alone, and need no workflow.
local function new_flow(root)
  local flow = {total = 0, queued = 0, running = 0, done = 0, failed = 0, share = 0, progress = -1}
  local first = read_job(root)
  if first then
    flow.total = 1
    count_job(flow, first, 1)
  end
  return flow
end

local function store_workflow_update(event, root, flow)
  local format = '{"event":"workflow_update","root_id":%s,"project_id":%s,"total":%d,"queued":%d,"running":%d,'
    .. '"done":%d,"failed":%d,"progress":%d,"timestamp":%s}'
  local payload = string.format(format, cjson.encode(root), project_id, flow.total, flow.queued, flow.running,
    flow.done, flow.failed, flow.progress, timestamp)
  local at = store(WORKFLOW_EVENT, payload, event.tag)
  workflow_updates[#workflow_updates + 1] = {event.index, payload, at}
end

-- Bring the workflow of a job up to date with the job's change from one state (nil: a new job) to another.
local function update_workflow(event, before, after)
  local root = after.root
  if root == '-' then return end
  local flow = read_flow(root)
  if not flow then
    if event.job == root then return end
    flow, before = new_flow(root), nil
  end
  if before then count_job(flow, before, -1) else flow.total = flow.total + 1 end
  count_job(flow, after, 1)
  -- A little more than the mean, so that sums of fractions reach the whole number that they stand for.
  local progress = math.floor(flow.share / flow.total + 0.000001)
  local is_news = not before or before.kind ~= after.kind or progress ~= flow.progress
  flow.progress = progress
  write_flow(root, flow)
  if is_news and flow.total > 1 then store_workflow_update(event, root, flow) end
end

-- Statuses and progress -----------------------------------------------------------------------------------------------

-- Of two reports the later is not the newer: they come from several processes. What counts is attempt, then rank.
local function is_newer(event, state)
  local attempt, rank = event.attempt, event.rank
  local is_same_attempt = state and state.attempt == attempt
  if rank == EXPIRED then return is_same_attempt and state.rank == QUEUED end
  if rank == LOST then
    -- Only the incarnation that runs a job can lose it. Its own may be unknown, as of a job of which only progress
    -- has been reported.
    local is_its_own = event.incarnation == '-' or state and (state.incarnation == '-'
      or event.incarnation == state.incarnation)
    return is_same_attempt and state.rank == RUNNING and is_its_own
  end
  if not state or attempt > state.attempt then return true end
  if attempt < state.attempt then return false end
  if state.rank == LOST then return rank ~= QUEUED end
  -- Running a second time in the same attempt: the message was delivered again, to another incarnation.
  if rank == RUNNING and state.rank == RUNNING then return event.incarnation ~= state.incarnation end
  return tonumber(rank) > tonumber(state.rank)
end

local function status_state(event, before, at)
  local is_same_attempt = before and before.attempt == event.attempt
  local is_finished = event.kind == 'done' or event.kind == 'failed'
  return {
    attempt = event.attempt, rank = event.rank == EXPIRED and ENDED or event.rank, incarnation = event.incarnation,
    kind = event.kind, root = before and before.root or event.root, status = event.payload, status_at = at,
    share = is_finished and 100 or before and before.share or 0,
    percent = is_same_attempt and before.percent or 0,
    progress = is_same_attempt and before.progress or '',
    progress_at = is_same_attempt and before.progress_at or 0,
  }
end

local function append_status(event)
  local before = read_job(event.job)
  -- The same write a second time, its first answer having been lost.
  if before and before.status == event.payload and before.incarnation == event.incarnation then
    return before.status_at
  end
  if not is_newer(event, before) then return 0 end
  local at = store(event.name, event.payload, event.tag)
  local after = status_state(event, before, at)
  write_job(event.job, after)
  update_workflow(event, before, after)
  if has_ended(after) then
    redis.call('ZADD', keys.ended, now, event.job)
    redis.call('ZREM', keys.live, event.job)
  else
    if before and has_ended(before) then redis.call('ZREM', keys.ended, event.job) end
    redis.call('ZADD', keys.live, at, event.job)
  end
  return at
end

local function is_progress(event, state)
  if not state or event.attempt > state.attempt then return true end
  if event.attempt < state.attempt or has_ended(state) then return false end
  return event.percent >= state.percent
end

-- Progress may be the first that is heard of a job, or of an attempt: then the job runs.
local function progress_state(event, before, at)
  local is_new_attempt = not before or event.attempt > before.attempt
  local earlier = before or {incarnation = '-', share = 0, root = event.root, status = '', status_at = 0}
  return {
    attempt = event.attempt, rank = is_new_attempt and RUNNING or earlier.rank,
    kind = is_new_attempt and 'running' or earlier.kind, incarnation = earlier.incarnation, root = earlier.root,
    status = earlier.status, status_at = earlier.status_at, share = math.max(earlier.share, event.percent),
    percent = event.percent, progress = event.payload, progress_at = at,
  }
end

local function append_progress(event)
  local before = read_job(event.job)
  if before and before.progress == event.payload then return before.progress_at end
  if not is_progress(event, before) then return 0 end
  local at = store(event.name, event.payload, event.tag)
  local after = progress_state(event, before, at)
  write_job(event.job, after)
  redis.call('ZADD', keys.live, at, event.job)
  if before and has_ended(before) then redis.call('ZREM', keys.ended, event.job) end
  update_workflow(event, before, after)
  return at
end

local function append(event)
  local stored_at = find_stored(event)
  if stored_at then return stored_at end
  if event.rank == PROGRESS then return append_progress(event) end
  if event.rank == CUSTOM then return store(event.name, event.payload, event.tag) end
  return append_status(event)
end

open_project()
local offsets = {}
for position, fields in ipairs(cmsgpack.unpack(descriptions)) do
  offsets[position] = append(describe(position - 1, fields))
end
close_project()
-- The offsets as one text, which clients read faster than many numbers.
return {epoch, table.concat(offsets, ' '), workflow_updates}
