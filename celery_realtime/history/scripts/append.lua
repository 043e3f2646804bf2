-- Store events of one project. Decides which of them are news, gives those their offsets, keeps the state of their jobs
-- and the counts of their workflows, all in one step on the server.
--
-- KEYS, those up to 9 of one project
--   1 meta         hash: epoch; offset, of the newest event; further keys, renewed and due, see common.open; and the
--                  receipts of writers, see receipts.lua
--   2 events       stream with ids <offset>-0: e, the event's name; p, its JSON; t, when it was stored; n, only
--                  in the first event of a job's newer run: clients begin from a clean job, having heard no end perhaps
--   3 jobs         hash: job id -> entry, see common.parse_job; and what jobs have as metadata, see common.METADATA
--   4 ended        sorted set: ids of jobs that have ended, by the time (s) of their end; and of those of which only
--                  metadata is known, by that of its latest change
--   5 flows        hash: root id -> counts of a workflow, see common.parse_flow
--   6 live         sorted set: ids of jobs that have not ended, by the offset of their latest event
--   7 flows-ended  sorted set: root ids of workflows of which no job is queued or running, by time (s)
--   8 gone         sorted set: ids of jobs that ended and are not shown any more, by time (s). What is left of their
--                  entries keeps late reports from bringing them back
--   9 flows-due    sorted set: root ids of workflows that have changed since their latest update, by the time (s) at
--                  which the next one is due
--  10 begun        hash, of all projects: id, random; and the `meta` of each project -> how often it has begun
--  11 watched      string, there while somebody watches the project
--  12 server       string, only behind Sentinels and in a cluster: which server stored the latest event
-- ARGV
--   1 new_epoch         string: random; the epoch to go on in, should something of this project be lost
--   2 max_events        number: entries that each of `events`, `ended` and `flows-ended` keep
--   3 ttl               seconds that a project without new events is kept
--   4 ended_ttl         seconds that a job is kept after its end
--   5 timestamp         JSON string: the time that workflow updates carry
--   6 project_id        JSON string
--   7 witnessed_epoch   string: the latest epoch that the caller has seen of this project, or ''
--   8 witnessed_offset  number: the highest offset that the caller has seen in that epoch
--   9 max_live          number: entries that `live` keeps
--  10 writer            string: who appends
--  11 write             number: of this write, higher than that of each earlier one of this writer
--  12 numbers           string: the numbers that the writer has given the events, with blanks between
--  13 descriptions      msgpack: a list for each event, see describe
--  14 ...               JSON: the payload of each event
--
-- If this write has been applied before, nothing happens, and the answer is that of then.
--
-- Returns {epoch, offsets as one text with blanks between (0: not news; below 0: of the first event of a newer run),
-- updates of workflows and of metadata {index, JSON, offset; or, of a change of metadata that is refused, why, and 0},
-- 1 if these events made further workflow updates due later, else 0, 1 if somebody watches the project, else 0}.

-- include: common

-- include: receipts

local keys = common.project_keys()
local watched_key, server_key = KEYS[11], KEYS[12]
local new_epoch, max_events, ttl, ended_ttl, timestamp, project_id, witnessed_epoch, witnessed_offset, max_live,
  writer, write, numbers, descriptions = unpack(ARGV, 1, 13)
local FIRST_PAYLOAD = 14
max_events, ttl, ended_ttl, max_live = tonumber(max_events), tonumber(ttl), tonumber(ended_ttl), tonumber(max_live)
witnessed_offset, write = tonumber(witnessed_offset), tonumber(write)
-- Jobs in `gone`; each takes less than a tenth of the room that it took before.
local max_gone = 10 * max_events

-- Ranks of a job within one attempt. LOST, and EXPIRED, an expiry that only a reaper has seen, end a job as ENDED does,
-- but a later run or end reopens it: a reaper has heard nothing, and may be mistaken.
local QUEUED, RUNNING, ENDED, LOST, EXPIRED = '0', '1', '2', 'L', 'E'
-- LOST, of a job that its worker is known to have started.
local STARTED_AND_LOST = 'S'
-- The end of a step that is not published, since a job before it did not succeed. It is as soft as EXPIRED: another job
-- may lead to the same step.
local UNREACHED = 'U'
-- The end of a job whose message nobody will get: it was cancelled, or the broker has lost it. As soft as EXPIRED, and
-- the same but for jobs that have been handed on, which wait as queued ones do, and have started in time.
local UNDELIVERED = 'N'
-- A job that has started is queued again, in the same attempt: its message went back to the broker, which delivers it
-- again. `started` of such an event is when that was. The entry of such a job keeps the start that is over.
local GIVEN_BACK = 'B'
-- The end of a job whose process was killed, as somebody says who outlives it, and has not seen it. It is final for
-- that start of the task. The message may be delivered again, if the worker dies before it has acknowledged it: then
-- the next start takes this end back.
local DIED = 'D'
-- What somebody says who has heard nothing of a job.
local REAPERS = {[EXPIRED] = true, [UNDELIVERED] = true, [LOST] = true, [STARTED_AND_LOST] = true}
-- In place of a rank, and no event: a job that runs goes on in a message that it has published, as by `self.replace`.
-- Its worker does not have it any more, and whoever gets the message does.
local HANDED_ON = 'H'
-- Most milliseconds that a report takes from being described to being stored.
local REPORT_TIME = 1000
-- In place of the incarnation that has a job, of one that has been handed on, which nobody is known to have: this, when
-- that was (ms), a colon, and the incarnation that has handed it on.
local BY = '*'
-- Bytes of the incarnations that have had an attempt of a job before the present one; beyond, the oldest are forgotten.
local MOST_FORMER = 300
-- In place of a rank: progress, that of a job with stages, which may go back, progress that has come to a halt, a
-- custom event, a look for what is due.
local PROGRESS, STAGED, STALLED, CUSTOM, LOOK = 'p', 'g', 's', 'c', 'w'
-- Likewise: a change of the metadata of a job, by itself, or by a job below it.
local METADATA, METADATA_ABOVE = 'm', 'M'

local WORKFLOW_EVENT, METADATA_EVENT = 'agent_workflow', 'agent_metadata'
-- Seconds between two updates of a workflow, but for the one that says that nothing of it is queued or running.
local WORKFLOW_PAUSE = 0.25

local now = common.now()
local now_ms, now_text = math.floor(now * 1000), string.format('%.6f', now)
local project
-- Updates of workflows and of metadata.
local updates = {}
local has_made_due = 0

local function describe(index, fields)
  local name, job, attempt, rank, percent, incarnation, kind, root, run, execution, age, is_redelivered, clock,
    change = unpack(fields)
  return {
    index = index, name = name, job = job, attempt = attempt, rank = rank, percent = percent,
    incarnation = incarnation, kind = kind, root = root, payload = ARGV[FIRST_PAYLOAD + index],
    -- Which publication of the job it is of, and which start of its task; each '-' if that is not known. The start is
    -- `age` ms ago: so the clocks of the hosts need not agree.
    -- What is queued has not started, though a job may say of itself that it is tried once more.
    run = run, execution = rank == QUEUED and '-' or execution, started = now_ms - age,
    is_redelivered = is_redelivered,
    -- The same (us) by the clock of the host, which all processes of a worker share; -1 where it is not known.
    clock = clock or -1,
    -- Of metadata, what is to be done: which of these, JSON of the key, JSON of a value, most bytes of all of it.
    change = change,
  }
end

-- The project ---------------------------------------------------------------------------------------------------------

-- Behind Sentinels and in a cluster, a server that takes over may lack the newest events, and would give their offsets
-- away a second time.
--
-- In a cluster, keys may also have come from a server that has not died: those are complete. A server that has taken
-- over knows whose replica it was.
local function is_another_server()
  if not server_key then return false end
  local info = redis.pcall('INFO', 'replication')
  local function named(field) return type(info) == 'string' and string.match(info, field .. ':(%x+)') end
  local server, former = named('master_replid') or 'unknown', redis.call('GET', server_key)
  if former == server then return false end
  redis.call('SET', server_key, server, 'EX', math.ceil(ttl))
  if not former or former == named('master_replid2') then return true end
  local mode = redis.pcall('INFO', 'server') -- redis_mode, or Valkey's server_mode
  return not (type(mode) == 'string' and string.find(mode, '_mode:cluster', 1, true))
end

-- Tell whether the server has lost what the caller itself has stored there, and up to which offset.
local function find_lost(stored_epoch, stored_offset)
  local is_witnessed = stored_epoch == witnessed_epoch and stored_offset and witnessed_offset > stored_offset
  return is_another_server() or is_witnessed, is_witnessed and witnessed_offset
end

local function forget_metadata(jobs)
  if project.has_metadata and #jobs > 0 then redis.call('HDEL', keys.jobs, unpack(common.metadata_fields(jobs))) end
end

local function forget_jobs_that_are_gone_long_since()
  local surplus = math.min(redis.call('ZCARD', keys.gone) - max_gone, 200)
  if surplus <= 0 then return end
  local jobs = redis.call('ZRANGE', keys.gone, 0, surplus - 1)
  redis.call('HDEL', keys.jobs, unpack(jobs))
  forget_metadata(jobs)
  redis.call('ZREM', keys.gone, unpack(jobs))
end

local function forget_jobs_that_ended_long_ago()
  local jobs = redis.call('ZRANGEBYSCORE', keys.ended, '-inf', now - ended_ttl, 'LIMIT', 0, 100)
  local surplus = math.min(redis.call('ZCARD', keys.ended) - max_events, 100)
  if surplus > 0 then
    for _, job in ipairs(redis.call('ZRANGE', keys.ended, 0, surplus - 1)) do jobs[#jobs + 1] = job end
  end
  if #jobs == 0 then return end
  for place, entry in ipairs(redis.call('HMGET', keys.jobs, unpack(jobs))) do
    if entry then
      redis.call('HSET', keys.jobs, jobs[place], string.sub(entry, 1, (string.find(entry, '\n', 1, true) or 0) - 1))
      redis.call('ZADD', keys.gone, now, jobs[place])
    end
  end
  redis.call('ZREM', keys.ended, unpack(jobs))
  forget_metadata(jobs)
  forget_jobs_that_are_gone_long_since()
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
  forget_metadata(jobs)
end

-- Of those that are too old, the oldest few at each append are enough.
local function forget_old_events()
  redis.call('XTRIM', keys.events, 'MAXLEN', '~', max_events)
  for _ = 1, 4 do
    local oldest = redis.call('XRANGE', keys.events, '-', '+', 'COUNT', 1)[1]
    if not oldest or (tonumber(oldest[2][6] or '') or 0) >= now - ttl then return end
    redis.call('XDEL', keys.events, oldest[1])
  end
end

local function close_project()
  forget_jobs_that_ended_long_ago()
  forget_workflows_that_ended_long_ago()
  forget_live_jobs_that_were_silent_longest()
  forget_old_events()
  if common.close(keys, project, now, ttl) > 0 then receipts.forget_old(keys, project.offset) end
end

-- Events --------------------------------------------------------------------------------------------------------------

local function id_of(offset) return offset .. '-0' end

local function store(name, payload)
  project.offset = project.offset + 1
  local id = id_of(project.offset)
  redis.call('XADD', keys.events, id, 'e', name, 'p', payload, 't', now_text)
  return project.offset
end

local function store_first_of_run(name, payload)
  project.offset = project.offset + 1
  local id = id_of(project.offset)
  redis.call('XADD', keys.events, id, 'e', name, 'p', payload, 't', now_text, 'n', 1)
  return project.offset
end

-- Return the answer to an event that has been stored before.
local function answer_of_stored(offset)
  local entry = redis.call('XRANGE', keys.events, id_of(offset), id_of(offset))[1]
  return entry and entry[2][7] == 'n' and -offset or offset
end

-- Entries of jobs -----------------------------------------------------------------------------------------------------

-- Each is read once, and written once when all events are stored: a call costs more than what it does.
-- Of the jobs that these events are about: what is stored, false for nothing; what has been parsed of it or is to be
-- written; and the ids of those of which something is to be written.
local entries, states, changed = {}, {}, {}
local CHUNK = 100

local function in_chunks(list, call)
  for start = 1, #list, CHUNK do call(unpack(list, start, math.min(start + CHUNK - 1, #list))) end
end

local function read_entries(described)
  local jobs = {}
  for _, fields in ipairs(described) do
    local job = fields[2]
    if job ~= '' and entries[job] == nil then
      entries[job] = false
      jobs[#jobs + 1] = job
    end
  end
  local place = 0
  in_chunks(jobs, function(...)
    for _, entry in ipairs(redis.call('HMGET', keys.jobs, ...)) do
      place = place + 1
      entries[jobs[place]] = entry
    end
  end)
end

-- What nearly all JSON of a job begins with is no part of its entry: with it a job would take a third more memory.
local STATUS, UPDATE = '{"event":"status_change","job_id":', '{"event":"progress_update","job_id":'
local PROJECT = ',"project_id":' .. project_id .. ','
local SHORT = '~'

local function beginning(event, job) return event .. cjson.encode(job) .. PROJECT end

-- Return where the rest of JSON begins that has such a beginning; nil for other JSON. Most ids are in it as they are,
-- which is seen in half of the time that making the beginning takes.
local function find_rest(json, event, job)
  local id, rest = #event + 2, #event + #job + #PROJECT + 3
  if string.sub(json, id, id + #job - 1) == job and string.sub(json, id + #job + 1, rest - 1) == PROJECT
    and string.sub(json, 1, id - 1) == event .. '"' and not string.find(job, '[/\127]') then
    return rest
  end
  local start = beginning(event, job)
  return string.find(json, start, 1, true) == 1 and #start + 1 or nil
end

local function shorten(json, event, job)
  local rest = find_rest(json, event, job)
  return rest and SHORT .. string.sub(json, rest) or json
end

local function lengthen(stored, event, job)
  return string.sub(stored, 1, 1) == SHORT and beginning(event, job) .. string.sub(stored, 2) or stored
end

-- What most statuses have in them, by what stands for it where an entry has `^` in place of `~`: characters that JSON
-- has not. entries.py has the same list. Of a job that waits it is not written: while servers are upgraded one after
-- the other, what a new one publishes is shown by old ones, too, which do not know `^`. Workers come later.
local SHORTER = '^'
local STATES = {STARTED = {'running', '\1'}, SUCCESS = {'success', '\2'}}
local WAITS = '\3'
local RESULT, RESULT_SIGN = ',"result":null,"error":null,"task":', '\4'
local ROOT, ROOT_SIGN = ',"root_id":', '\5'
local PARENT, PARENT_SIGN = ',"parent_id":null,"group_id":null,"worker":', '\6'
-- Of progress that says no count; in the JSON of a job's progress this alone is left out.
local UNCOUNTED, UNCOUNTED_SIGN = ',"current":null,"total":null,"task":', '\7'

local WORDS = {[RESULT_SIGN] = RESULT, [PARENT_SIGN] = PARENT}
local function begin_with(state, status, sign)
  WORDS[sign] = string.format('"status":"%s","state":"%s","timestamp":"', status, state)
end
for state, form in pairs(STATES) do begin_with(state, unpack(form)) end
begin_with('PENDING', 'queued', WAITS)

local function shorten_status(json, job)
  local long = shorten(json, STATUS, job)
  local status, state, rest = string.match(long, '^~"status":"(%l+)","state":"(%u+)","timestamp":"()')
  local form = STATES[state]
  if not form or form[1] ~= status then return long end
  local short = SHORTER .. form[2]
  local function replace(word, sign)
    local first, last = string.find(long, word, rest, true)
    if first then short, rest = short .. string.sub(long, rest, first - 1) .. sign, last + 1 end
  end
  replace(RESULT, RESULT_SIGN)
  replace(ROOT .. cjson.encode(job), ROOT_SIGN)
  replace(PARENT, PARENT_SIGN)
  return short .. string.sub(long, rest)
end

local function lengthen_status(stored, job)
  if string.sub(stored, 1, 1) ~= SHORTER then return lengthen(stored, STATUS, job) end
  WORDS[ROOT_SIGN] = ROOT .. cjson.encode(job)
  local long = string.gsub(string.sub(stored, 2), '%c', WORDS)
  return beginning(STATUS, job) .. long
end

local function shorten_progress(json, job)
  local rest = find_rest(json, UPDATE, job)
  if not rest then return json end
  local first, last = string.find(json, UNCOUNTED, rest, true)
  if not first then return SHORT .. string.sub(json, rest) end
  return SHORTER .. string.sub(json, rest, first - 1) .. UNCOUNTED_SIGN .. string.sub(json, last + 1)
end

local function lengthen_progress(stored, job)
  if string.sub(stored, 1, 1) ~= SHORTER then return lengthen(stored, UPDATE, job) end
  local long = string.gsub(string.sub(stored, 2), UNCOUNTED_SIGN, UNCOUNTED)
  return beginning(UPDATE, job) .. long
end

local function read_job(job)
  if states[job] then return states[job] end
  if entries[job] == nil then entries[job] = redis.call('HGET', keys.jobs, job) end
  local state = entries[job] and common.parse_job(job, entries[job])
  if not state then return nil end
  state.status, state.progress = lengthen_status(state.status, job), lengthen_progress(state.progress, job)
  states[job] = state
  return state
end

local function write_job(job, state)
  states[job], changed[job] = state, true
end

-- Members to add to sorted sets when all events are stored, with their scores.
local filed = {[keys.live] = {}, [keys.ended] = {}}

local function file(key, score, job) filed[key][job] = score end

local function take_out(key, job)
  filed[key][job] = nil
  common.take(key, job)
end

local function format_clock(state)
  if state.clock < 0 then return '' end
  return string.format(' %d', state.clock) .. (state.is_redelivered and 'r' or '')
end

-- Who does not know the one of the shorter forms does not know the other.
local function shorten_both(job, state)
  local status = shorten_status(state.status, job)
  local is_shorter = state.status == '' or string.sub(status, 1, 1) == SHORTER
  local progress = is_shorter and shorten_progress(state.progress, job) or shorten(state.progress, UPDATE, job)
  return status .. '\n' .. progress
end

local function format_job(job, state)
  return state.attempt .. ' ' .. state.rank .. ' ' .. state.percent .. ' ' .. state.status_at .. ' '
    .. state.progress_at .. ' ' .. state.incarnation .. state.former .. ' ' .. state.kind .. ' ' .. state.share .. ' '
    .. (state.root == job and '=' or state.root) .. ' ' .. state.run .. ' ' .. state.execution .. ' '
    .. state.started .. ' ' .. state.ended .. format_clock(state) .. '\n' .. shorten_both(job, state)
end

local function write_entries()
  local fields = {}
  for job in pairs(changed) do
    fields[#fields + 1] = job
    fields[#fields + 1] = states[job] and format_job(job, states[job]) or entries[job]
  end
  in_chunks(fields, function(...) redis.call('HSET', keys.jobs, ...) end)
  for key, scores in pairs(filed) do
    local members = {}
    for job, score in pairs(scores) do
      members[#members + 1] = score
      members[#members + 1] = job
    end
    in_chunks(members, function(...) common.add(key, ...) end)
  end
end

-- Workflows -----------------------------------------------------------------------------------------------------------

local has_flows

-- Most jobs are of no workflow: where there is none, none is looked for.
local function are_flows_stored()
  if has_flows == nil then has_flows = redis.call('EXISTS', keys.flows) == 1 end
  return has_flows
end

local function read_flow(root)
  if not are_flows_stored() then return nil end
  local stored = redis.call('HGET', keys.flows, root)
  return stored and common.parse_flow(stored)
end

local function write_flow(root, flow)
  has_flows = true
  common.write_flow(keys, root, flow, now_text)
end

-- A root counts itself only once there is a second job: most jobs are alone, and need no workflow.
local function begin_flow(root)
  local flow, first = common.new_flow(), read_job(root)
  if first then
    flow.total = 1
    common.count_job(flow, first, 1)
  end
  return flow
end

local function store_workflow_update(event, root, flow)
  local format = '{"event":"workflow_update","root_id":%s,"project_id":%s,"total":%d,"queued":%d,"running":%d,'
    .. '"done":%d,"failed":%d,"progress":%d,"timestamp":%s}'
  local payload = string.format(format, cjson.encode(root), project_id, flow.total, flow.queued, flow.running,
    flow.done, flow.failed, flow.progress, timestamp)
  local at = store(WORKFLOW_EVENT, payload)
  updates[#updates + 1] = {event.index, payload, at}
  flow.updated = now_ms
  if project.due then common.take(keys.flows_due, root) end
end

-- Report a workflow's change: at once if it is the first or the last one, or if there was none for a while.
local function report_workflow(event, root, flow)
  local due = flow.updated / 1000 + WORKFLOW_PAUSE
  if common.is_over(flow) or due <= now then return store_workflow_update(event, root, flow) end
  if redis.call('ZSCORE', keys.flows_due, root) then return end
  common.add(keys.flows_due, due, root)
  has_made_due = 1
  project.due = math.min(project.due or due, due)
end

-- Bring the workflow of a job up to date with the job's change from one state (nil: a new job) to another.
local function update_workflow(event, before, after)
  local root = after.root
  if root == '-' then return end
  if before and before.root ~= root then before = nil end
  local flow = read_flow(root)
  if not flow then
    if event.job == root then return end
    flow, before = begin_flow(root), nil
  end
  if before then common.count_job(flow, before, -1) else flow.total = flow.total + 1 end
  common.count_job(flow, after, 1)
  local progress = common.progress_of(flow)
  local is_news = not before or before.kind ~= after.kind or progress ~= flow.progress
  flow.progress = progress
  if is_news and flow.total > 1 then report_workflow(event, root, flow) end
  write_flow(root, flow)
end

-- Store the updates of workflows that had to wait, with this event.
local function report_due_workflows(event)
  if not project.due or project.due > now then return end
  for _, root in ipairs(redis.call('ZRANGEBYSCORE', keys.flows_due, '-inf', now, 'LIMIT', 0, 100)) do
    local flow = read_flow(root)
    if flow then
      store_workflow_update(event, root, flow)
      write_flow(root, flow)
    else
      common.take(keys.flows_due, root)
    end
  end
  project.due = tonumber(redis.call('ZRANGE', keys.flows_due, 0, 0, 'WITHSCORES')[2])
end

-- Runs and executions -------------------------------------------------------------------------------------------------

local OLDER, SAME, NEWER = -1, 0, 1

-- Return when a run was published, of its mark "<ms>-<random>".
local function published(run) return tonumber(string.match(run, '^%d+')) or 0 end

-- A job without a mark, published by somebody without this package, has no run of its own. Yet a task that is started
-- after its job has ended, by a message that was not delivered before, was published again: then the time of that start
-- stands for the run, as "@<ms>".
local function compare_unmarked_runs(event, state)
  if event.execution == '-' then return SAME end
  local began = tonumber(string.match(state.run, '^@(%d+)$'))
  if began and event.execution ~= state.execution and event.started < began then return OLDER end
  local is_new = state.ended > 0 and event.execution ~= state.execution and event.started > state.ended
  return is_new and not event.is_redelivered and NEWER or SAME
end

-- Compare the run that an event is of with that of a job.
local function compare_runs(event, state)
  if not state or event.run == state.run and event.run ~= '-' then return SAME end
  if event.run == '-' then return compare_unmarked_runs(event, state) end
  if string.match(state.run, '^[-@]') then return state.ended > 0 and NEWER or SAME end
  local publication, present = published(event.run), published(state.run)
  if publication == present then return event.run < state.run and OLDER or NEWER end
  return publication < present and OLDER or NEWER
end

local function is_of_same_run(event, state) return event.run == '-' or event.run == state.run end

local function is_from_same(event, state)
  return is_of_same_run(event, state) and event.incarnation == state.incarnation
    and (event.execution == '-' or event.execution == state.execution)
end

-- Return the run that a job is of after an event.
local function run_after(event, state, order)
  if event.run ~= '-' then return event.run end
  if order == NEWER then return string.format('@%d', event.started) end
  return state and state.run or '-'
end

-- Tell whether an event is of another execution than the job's present one, as far as both are known.
local function is_of_another_execution(event, state)
  return event.execution ~= '-' and state.execution ~= '-' and event.execution ~= state.execution
end

-- Tell whether the times of an event and of a job were read from one clock, that of the host of one worker.
local function is_by_same_clock(event, state)
  return event.clock >= 0 and state.clock >= 0 and event.incarnation == state.incarnation and event.incarnation ~= '-'
end

-- Return a number above 0 if what an event is of came after what is known of a job, and one below 0 if before. Reports
-- take their time to come here, and one may overtake the other: what was read from one clock counts before that. Of the
-- starts of one run, those of a message that was delivered before come after the one of a message that was not; but one
-- that is heard of long after may be of another publication, if runs have no marks.
local function time_since(event, state)
  if is_by_same_clock(event, state) then return event.clock - state.clock end
  local are_known = event.clock >= 0 and state.clock >= 0 and event.execution ~= '-' and state.execution ~= '-'
  local elapsed = event.started - state.started
  if not are_known or event.is_redelivered == state.is_redelivered then return elapsed end
  if event.is_redelivered then return 1 end
  return elapsed <= REPORT_TIME and -1 or elapsed
end

-- Running a second time in the same attempt: the message was delivered again.
local function starts_again(event, state)
  if event.execution == '-' or state.execution == '-' then return event.incarnation ~= state.incarnation end
  return event.execution ~= state.execution and time_since(event, state) >= 0
end

-- Of a start after the one that is known to have died. If it is not known which that was, its message has been
-- delivered before, and it began after that death was reported.
local function is_of_later_start(event, state)
  if event.execution == '-' or event.rank == QUEUED then return false end
  if state.execution == '-' then return event.is_redelivered and time_since(event, state) > 0 end
  return event.execution ~= state.execution and time_since(event, state) >= 0
end

-- Jobs ----------------------------------------------------------------------------------------------------------------

local function has_ended(state) return state.ended > 0 end

local function has_soft_end(state) return state.rank == LOST or state.rank == EXPIRED end

-- Write a job's new state, and file it where that belongs.
local function keep_job(event, before, after, at)
  write_job(event.job, after)
  if has_ended(after) then
    file(keys.ended, now_text, event.job)
    take_out(keys.live, event.job)
  else
    file(keys.live, at, event.job)
    -- Of a job that was not known its metadata may be filed there, see append_metadata.
    local may_be_filed = before and has_ended(before) or not before and project.has_metadata
    if may_be_filed then take_out(keys.ended, event.job) end
  end
  if before and before.is_gone then common.take(keys.gone, event.job) end
  update_workflow(event, before, after)
end

local function is_handed_on(state) return string.sub(state.incarnation, 1, 1) == BY end

-- Return when a job was handed on, and by which incarnation.
local function handing_on(state)
  local at, by = string.match(state.incarnation, '^%*(%d+):(.*)$')
  return tonumber(at), by
end

-- Return who has had an attempt of a job before an incarnation that has it now, the latest first.
local function former_before(incarnation, state)
  local _, by = handing_on(state)
  local latest = by or state.incarnation
  if latest == '-' or latest == incarnation then return state.former end
  local former = ',' .. latest .. state.former
  return #former <= MOST_FORMER and former or string.match(string.sub(former, 1, MOST_FORMER), '^(.*),') or ''
end

local function is_queued(state) return state.rank == QUEUED or state.rank == GIVEN_BACK end

-- Tell whether an event is of the start of a job whose message has gone back since. If it is not known which start that
-- was, it was one of the same worker before that time; the one after it is of a message that was delivered before.
local function is_of_start_that_was_given_back(event, state)
  if state.rank ~= GIVEN_BACK or event.execution == '-' then return false end
  if state.execution ~= '-' then return event.execution == state.execution end
  if is_by_same_clock(event, state) then return time_since(event, state) <= 0 end
  return event.incarnation == state.incarnation and event.started <= state.started and not event.is_redelivered
end

-- Tell whether the message of the execution that a job is in has gone back; a later one may have begun by now. Its
-- start may not be on record: this may be the first that is heard of a run or attempt, or come after a soft end.
local function is_given_back(event, state)
  if not state or event.attempt > state.attempt then return true end
  local is_its_own = state.incarnation == '-' or event.incarnation == state.incarnation or is_handed_on(state)
  local may_go_back = state.rank == RUNNING or state.rank == DIED or has_soft_end(state)
  return is_its_own and event.attempt == state.attempt and may_go_back
    and (state.execution == '-' or time_since(event, state) >= 0)
end

-- Tell whether the message has gone back of a start that is not on record: it may still be reported.
local function is_given_back_unseen(event, state)
  local is_same_attempt = event.rank == GIVEN_BACK and state and event.attempt == state.attempt
  return is_same_attempt and (state.rank == QUEUED or state.rank == GIVEN_BACK and time_since(event, state) > 0)
end

-- Tell whether it is of an earlier start that an incarnation has had a job: the job was handed on since, or the message
-- of that start, or of one after it, went back. Times are late by what their reports took to come here.
local function is_of_earlier_start(event, state)
  local at, by = handing_on(state)
  local over = at or state.rank == GIVEN_BACK and state.started
  local had = ',' .. (by or state.incarnation) .. state.former .. ','
  if not over or event.started > over + REPORT_TIME then return false end
  return string.find(had, ',' .. event.incarnation .. ',', 1, true) ~= nil
end

-- Tell whether an event is of a start before the one that runs now. Who reports the death of a process knows which
-- worker it belonged to, and when that was, but not which start it was of. Times are late by what their reports took.
local function is_of_start_before(event, state)
  if state.rank ~= RUNNING or is_handed_on(state) then return false end
  if event.execution ~= '-' and state.execution ~= '-' then
    return event.execution ~= state.execution and time_since(event, state) < 0
  end
  local is_former = string.find(state.former .. ',', ',' .. event.incarnation .. ',', 1, true) ~= nil
  if event.rank ~= DIED then return event.incarnation ~= state.incarnation and is_former end
  if is_by_same_clock(event, state) then return time_since(event, state) < 0 end
  if event.incarnation == state.incarnation then return state.started > event.started + REPORT_TIME end
  return state.started + (is_former and REPORT_TIME or 0) > event.started
end

-- Tell whether the message has been lost of a job that nobody is known to have: the one that it has now.
local function is_undelivered(event, state)
  return is_queued(state) or state.rank == RUNNING and is_handed_on(state) and handing_on(state) <= event.started
end

-- What a reaper says of a job, which has heard nothing of it. `state` is nil if nothing is known of this run.
local function is_news_of_reaper(event, state)
  local is_same_attempt = state and state.attempt == event.attempt
  if event.rank == EXPIRED then return is_same_attempt and is_queued(state) end
  if event.rank == UNDELIVERED then return is_same_attempt and is_undelivered(event, state) end
  -- The worker had started it, and died before that could be stored.
  if event.rank == STARTED_AND_LOST then
    if not state or event.attempt > state.attempt then return true end
    if is_same_attempt and is_queued(state) then return not is_of_earlier_start(event, state) end
  end
  -- Only the incarnation that runs a job can lose it. Its own may be unknown, as of a job of which only progress has
  -- been reported. One that has been handed on was begun once more by whoever is known to have started it since.
  local is_its_own = event.incarnation == '-' or state and (state.incarnation == '-'
    or event.incarnation == state.incarnation
    or event.rank == STARTED_AND_LOST and is_handed_on(state) and not is_of_earlier_start(event, state))
  return is_same_attempt and state.rank == RUNNING and is_its_own
end

-- `state` is nil if nothing is known of this run.
local function is_news_of_death(event, state)
  if not state or event.attempt > state.attempt then return true end
  if event.attempt < state.attempt or state.rank == ENDED or state.rank == DIED then return false end
  if is_queued(state) then return not is_of_earlier_start(event, state) end
  return not is_of_start_before(event, state)
end

-- Of two reports the later is not the newer: they come from several processes. What counts is attempt, then rank.
-- `state` is nil if nothing is known of this run.
local function is_news(event, state)
  local attempt, rank = event.attempt, event.rank
  if rank == UNREACHED then return not state end
  if rank == GIVEN_BACK then return is_given_back(event, state) end
  if rank == DIED then return is_news_of_death(event, state) end
  if REAPERS[rank] then return is_news_of_reaper(event, state) end
  if not state or attempt > state.attempt then return true end
  if attempt < state.attempt then return false end
  if has_soft_end(state) then return rank ~= QUEUED end
  if state.rank == DIED then return is_of_later_start(event, state) end
  -- The start that runs now may yet succeed. A success counts, whichever start it is of.
  if event.kind == 'failed' and is_of_start_before(event, state) then return false end
  if rank == RUNNING and is_of_start_that_was_given_back(event, state) then return false end
  if rank == RUNNING and state.rank == RUNNING then return starts_again(event, state) end
  return rank > (is_queued(state) and QUEUED or state.rank)
end

-- Tell whether an event says of a soft end just what it says already: then it is final, and no news.
local function confirms(event, state)
  if event.rank ~= ENDED or not state or not has_soft_end(state) or event.attempt ~= state.attempt then return false end
  local is_readable, said, known = pcall(function() return cjson.decode(event.payload), cjson.decode(state.status) end)
  return is_readable and type(said) == 'table' and type(known) == 'table' and said.state == known.state
    and said.error == known.error and said.status == known.status
end

-- Tell whether a job that has replaced itself starts in what it was replaced by, perhaps in another worker: it is the
-- execution that is known. That is no news, but from then on it is that worker that has it, and can lose it.
local function is_continued(event, state)
  local is_same = state and event.rank == RUNNING and state.rank == RUNNING and event.attempt == state.attempt
    and event.execution ~= '-' and event.execution == state.execution
  return is_same and event.incarnation ~= state.incarnation and (is_handed_on(state) or event.started >= state.started)
end

-- Return the rank that a job has after an event.
local function rank_after(event)
  if event.rank == STARTED_AND_LOST then return LOST end
  return (event.rank == UNREACHED or event.rank == UNDELIVERED) and EXPIRED or event.rank
end

-- `state` is nil if nothing is known of this run.
local function status_state(event, state, order, at)
  local same = state and state.attempt == event.attempt and state or nil
  -- A start has no progress yet, unless it was heard of by its progress first.
  local goes_on = same and event.rank ~= GIVEN_BACK
    and (event.rank ~= RUNNING or is_queued(same) or same.status == '')
  local progress = goes_on and same or {percent = 0, progress = '', progress_at = 0}
  local is_its_own = same and (same.incarnation == event.incarnation or event.rank == DIED and same.incarnation == '-')
  local is_execution_kept = same and event.execution == '-'
    and (event.rank ~= RUNNING and event.rank ~= DIED or is_its_own)
    and (event.rank ~= GIVEN_BACK and event.rank ~= DIED or same.execution ~= '-')
  local is_end = event.kind == 'done' or event.kind == 'failed'
  local share = state and not has_ended(state) and state.share or 0
  return {
    attempt = event.attempt, rank = rank_after(event),
    incarnation = event.incarnation, former = same and former_before(event.incarnation, same) or '',
    kind = event.kind, status = event.payload, status_at = at,
    root = state and state.root ~= '-' and state.root or event.root, run = run_after(event, state, order),
    execution = is_execution_kept and same.execution or event.execution,
    started = is_execution_kept and same.started or event.started,
    -- Of a start in another worker it would be by another clock.
    clock = not is_execution_kept and event.clock or same.incarnation == event.incarnation and same.clock or -1,
    is_redelivered = (is_execution_kept and same or event).is_redelivered,
    ended = is_end and now_ms or 0, share = is_end and 100 or share,
    percent = progress.percent, progress = progress.progress, progress_at = progress.progress_at,
  }
end

-- Metadata ------------------------------------------------------------------------------------------------------------

-- By job: the lines of its metadata, each with what it begins with, the key; and the jobs of which they have changed.
local metadata, has_other_metadata = {}, {}

local function read_metadata(job)
  if metadata[job] then return metadata[job] end
  local lines = {}
  local stored = project.has_metadata and redis.call('HGET', keys.jobs, common.METADATA .. job) or ''
  for line in string.gmatch(stored, '[^\n]+') do lines[#lines + 1] = line end
  metadata[job] = lines
  return lines
end

local function write_metadata()
  for job in pairs(has_other_metadata) do
    local field, lines = common.METADATA .. job, metadata[job]
    if #lines > 0 then redis.call('HSET', keys.jobs, field, table.concat(lines, '\n'))
    else redis.call('HDEL', keys.jobs, field) end
  end
end

-- What is known of a job's former run is not of the newer one.
local function begin_metadata_anew(job)
  if metadata[job] or project.has_metadata then metadata[job], has_other_metadata[job] = {}, true end
end

local function find_line(lines, key)
  local start = key .. ':'
  for place, line in ipairs(lines) do
    if string.sub(line, 1, #start) == start then return place, string.sub(line, #start + 1) end
  end
end

-- Whole numbers stay whole, and others keep all their digits; nil of what is no number in JSON.
local function format_sum(sum, is_whole)
  if sum ~= sum or sum == math.huge or sum == -math.huge then return nil end
  if is_whole then return string.format('%.0f', sum) end
  for digits = 15, 17 do
    local text = string.format('%.' .. digits .. 'g', sum)
    if tonumber(text) == sum then return string.find(text, '[.e]') and text or text .. '.0' end
  end
end

-- Return JSON of what a key has after a change, or nil and why it cannot be made.
local function value_after(change, present)
  local kind, value = change[1], change[3]
  if kind == 'set' then return value end
  if kind == 'append' then
    if not present or present == '[]' then return '[' .. value .. ']' end
    if string.sub(present, 1, 1) ~= '[' then return nil, 'what has the key is no list' end
    return string.sub(present, 1, -2) .. ',' .. value .. ']'
  end
  local before, by = tonumber(present or '0'), tonumber(value)
  if not before or not by then return nil, 'what has the key is no number' end
  local sum = format_sum(before + by, not string.find((present or '0') .. value, '[.eE]'))
  if not sum then return nil, 'the sum is no number that JSON has' end
  return sum
end

local function size_with(lines, place, line)
  local size = #line
  for other, text in ipairs(lines) do
    if other ~= place then size = size + #text + 1 end
  end
  return size
end

local function is_late(event, state)
  if event.rank == METADATA_ABOVE then return false end
  return compare_runs(event, state) == OLDER or event.attempt < state.attempt or is_of_another_execution(event, state)
end

local function refuse_change(event, reason)
  updates[#updates + 1] = {event.index, reason, 0}
  return 0
end

local function format_change(event, key, value)
  local format = '{"event":"metadata_update","job_id":%s,"project_id":%s,"set":{%s:%s},"deleted":[],"timestamp":%s}'
  return string.format(format, cjson.encode(event.job), project_id, key, value, timestamp)
end

-- What comes of a sum or a list depends on what others have stored: then it is told as an update, with an offset of its
-- own, and the event itself is not stored.
local function append_metadata(event)
  local state = read_job(event.job)
  -- A job that speaks of itself is there, though nothing may be known of it since the history was lost.
  local is_known = state and not state.is_gone or not state and event.rank == METADATA
  if not is_known then return refuse_change(event, 'no such job is known') end
  if state and is_late(event, state) then return 0 end
  local kind, key, _, limit = unpack(event.change)
  local lines = read_metadata(event.job)
  local place, present = find_line(lines, key)
  if kind == 'delete' then
    if not place then return 0 end
    table.remove(lines, place)
    has_other_metadata[event.job] = true
    return store(event.name, event.payload)
  end
  local value, reason = value_after(event.change, present)
  if not value then return refuse_change(event, reason) end
  if value == present then return 0 end
  local line = key .. ':' .. value
  if size_with(lines, place, line) > limit then
    return refuse_change(event, string.format('all of it would have more than %d bytes', limit))
  end
  lines[place or #lines + 1], has_other_metadata[event.job] = line, true
  -- Its statuses may never come, if a filter drops them: then its metadata is forgotten as that of ended jobs is.
  if not state then file(keys.ended, now_text, event.job) end
  if not project.has_metadata then
    redis.call('HSET', keys.meta, 'metadata', 1)
    project.has_metadata = true
  end
  if kind == 'set' then return store(event.name, event.payload) end
  local payload = format_change(event, key, value)
  updates[#updates + 1] = {event.index, payload, store(METADATA_EVENT, payload)}
  return 0
end

-- Events of jobs ------------------------------------------------------------------------------------------------------

local function append_status(event)
  local before = read_job(event.job)
  -- The same write a second time, its first answer having been lost.
  if before and before.status == event.payload and is_from_same(event, before) then
    return answer_of_stored(before.status_at)
  end
  local order = compare_runs(event, before)
  if order == OLDER then return 0 end
  local state = order == SAME and before or nil
  if confirms(event, state) then
    state.rank = ENDED
    write_job(event.job, state)
    return 0
  end
  if is_continued(event, state) then
    state.former = former_before(event.incarnation, state)
    state.incarnation, state.started, state.clock = event.incarnation, event.started, event.clock
    -- Who asks from now on is given the worker that has the job. The blank tells the status from that of an event.
    state.status = event.payload .. ' '
    write_job(event.job, state)
    return 0
  end
  if is_given_back_unseen(event, state) then
    state.former, state.execution = former_before(event.incarnation, state), '-'
    state.rank, state.incarnation, state.started = GIVEN_BACK, event.incarnation, event.started
    state.clock, state.is_redelivered = event.clock, false
    write_job(event.job, state)
    return 0
  end
  if not is_news(event, state) then return 0 end
  local at = (order == NEWER and store_first_of_run or store)(event.name, event.payload)
  if order == NEWER then begin_metadata_anew(event.job) end
  keep_job(event, before, status_state(event, state, order, at), at)
  return order == NEWER and -at or at
end

-- Note that the worker that runs a job does not have it any more, unless it has begun it once more since. Times are
-- late by what their reports took to come here, so the start may seem to be the later one.
local function hand_on(event)
  local state = read_job(event.job)
  local is_present = state and compare_runs(event, state) == SAME and state.rank == RUNNING
    and state.attempt == event.attempt and not is_of_another_execution(event, state)
  local is_its_own = state and (state.incarnation == '-' or state.incarnation == event.incarnation)
  if is_present and is_its_own and state.started <= event.started + REPORT_TIME then
    state.incarnation = string.format('%s%d:%s', BY, event.started, event.incarnation)
    write_job(event.job, state)
  end
  return 0
end

-- `state` is nil if nothing is known of this run.
local function is_progress(event, state)
  local is_same_attempt = state and state.attempt == event.attempt
  -- What a reaper says of a job that is silent: of one that is not known to run, it has been silent too long itself.
  if event.rank == STALLED and not (is_same_attempt and state.rank == RUNNING) then return false end
  if not state or event.attempt > state.attempt then return true end
  if not is_same_attempt or has_ended(state) or is_of_another_execution(event, state) then return false end
  -- The next start comes before its progress; what comes before that is of the start before.
  if state.rank == GIVEN_BACK then return false end
  return event.percent >= state.percent or event.rank == STAGED
end

-- Progress may be the first that is heard of a run, or of an attempt: then the job runs.
local function state_begun_by_progress(event, state, order, at)
  local earlier = state or {incarnation = '-', share = 0, root = event.root, status_at = 0, ended = 0}
  return {
    attempt = event.attempt, rank = RUNNING, kind = 'running', incarnation = earlier.incarnation, former = '',
    root = earlier.root,
    status = '', status_at = earlier.status_at, run = run_after(event, state, order), execution = event.execution,
    started = event.started, clock = event.clock, is_redelivered = event.is_redelivered, ended = 0,
    share = math.max(has_ended(earlier) and 0 or earlier.share, event.percent),
    percent = event.percent, progress = event.payload, progress_at = at,
  }
end

-- Change the state of a job that has come further within an attempt; return what of it workflows count.
local function advance(event, state, at)
  local counted = {root = state.root, kind = state.kind, share = state.share, ended = 0}
  state.percent, state.progress, state.progress_at = event.percent, event.payload, at
  if event.percent > state.share then state.share = event.percent end
  if event.run ~= '-' then state.run = event.run end
  if state.execution == '-' then
    state.execution, state.started, state.clock = event.execution, event.started, event.clock
    state.is_redelivered = event.is_redelivered
  end
  return counted
end

-- An entry, as common.parse_job has it, of a job that runs and has a first report; and where its status begins.
local RUNNING_ENTRY = '^(%d+) 1 (%S+) (%d+) %d+ (%S+ running) (%S+) (%S+) (%S+ %S+) (%d+) 0( ?%d*r?)\n()'

-- Whether progress is at the end of an entry already.
local function ends_with(entry, status_end, progress)
  return #entry == status_end + #progress and string.find(entry, progress, status_end + 1, true)
end

-- Most events are further progress of a start that is known. Store it with what `append_progress` would make of it, in
-- a third of the time; return nil where that has to decide. Takes the fields of an event as describe does.
local function append_further_progress(fields, payload)
  local job, reached, execution = fields[2], fields[5], fields[10]
  local entry = entries[job]
  local is_staged = fields[4] == STAGED
  if fields[4] ~= PROGRESS and not is_staged or not entry or states[job] then return nil end
  local attempt, percent, status_at, worker, share, root, start, started, clock, status_start =
    string.match(entry, RUNNING_ENTRY)
  if tonumber(attempt or '') ~= fields[3] or start ~= fields[9] .. ' ' .. execution then return nil end
  percent, share = tonumber(percent), tonumber(share)
  if not percent or not share or reached < percent and not is_staged then return nil end
  if root ~= '-' and (root ~= '=' or are_flows_stored()) then return nil end
  local status_end = string.find(entry, '\n', status_start, true)
  local progress = shorten_progress(payload, job)
  if not status_end or ends_with(entry, status_end, progress) then return nil end
  local at = store(fields[1], payload)
  if execution == '-' then started, clock = now_ms - fields[11], '' end
  if reached > share then share = reached end
  entries[job] = attempt .. ' 1 ' .. reached .. ' ' .. status_at .. ' ' .. at .. ' ' .. worker .. ' ' .. share .. ' '
    .. root .. ' ' .. start .. ' ' .. started .. ' 0' .. clock .. '\n'
    .. string.sub(entry, status_start, status_end) .. progress
  changed[job] = true
  file(keys.live, at, job)
  return at
end

local function append_progress(event)
  local before = read_job(event.job)
  if before and before.progress == event.payload and is_of_same_run(event, before) then
    return answer_of_stored(before.progress_at)
  end
  local order = compare_runs(event, before)
  if order == OLDER then return 0 end
  local state = order == SAME and before or nil
  if not is_progress(event, state) then return 0 end
  local at = (order == NEWER and store_first_of_run or store)(event.name, event.payload)
  if order == NEWER then begin_metadata_anew(event.job) end
  if state and state.attempt == event.attempt then
    keep_job(event, advance(event, state, at), state, at)
  else
    keep_job(event, before, state_begun_by_progress(event, state, order, at), at)
  end
  return order == NEWER and -at or at
end

local function append(event)
  if event.rank == LOOK then return 0 end
  if event.rank == HANDED_ON then return hand_on(event) end
  if event.rank == PROGRESS or event.rank == STAGED or event.rank == STALLED then return append_progress(event) end
  if event.rank == CUSTOM then return store(event.name, event.payload) end
  if event.rank == METADATA or event.rank == METADATA_ABOVE then return append_metadata(event) end
  return append_status(event)
end

-- Return the offsets as one text, which clients read faster than many numbers.
local function append_all()
  local offsets, described, latest = {}, cmsgpack.unpack(descriptions), nil
  read_entries(described)
  for position, fields in ipairs(described) do
    offsets[position] = append_further_progress(fields, ARGV[FIRST_PAYLOAD + position - 1])
      or append(describe(position - 1, fields))
    latest = position - 1
  end
  write_entries()
  write_metadata()
  if latest then report_due_workflows(describe(latest, described[latest + 1])) end
  return table.concat(offsets, ' ')
end

local function is_watched() return redis.call('EXISTS', watched_key) end

-- Return the answer to this write if it has been applied before.
local function answer_again(receipt)
  local applied = receipts.write_of(receipt)
  if applied > write then return redis.error_reply('STALE the writer has given this write up') end
  if applied < write then return nil end
  local _, offsets, recalled = receipts.recall(keys, receipt, project.epoch)
  return offsets ~= '' and {project.epoch, offsets, recalled, project.due and 1 or 0, is_watched()}
end

project = common.open(keys, new_epoch, find_lost, now, ttl)
local receipt, offset_before = receipts.read(keys, writer), project.offset
local answer = receipt and answer_again(receipt)
if answer then return answer end

local offsets = append_all()
if receipt or project.offset > offset_before then
  project.noted = receipts.make(writer, write, project, numbers, offsets, updates)
end
close_project()
return {project.epoch, offsets, updates, has_made_due, is_watched()}
