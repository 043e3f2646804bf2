-- Tell which jobs of a project have no end on record.
--
-- KEYS, of one project, as append.lua has them
--   1 jobs
--   2 gone
-- ARGV
--   1 max_gone  entries that `gone` keeps
--   2 ...       string, number and string: id, attempt and run ('-' for an unknown one) of each job
--
-- Returns the places, from 0, of the jobs whose attempt has neither ended for good nor been followed by another, nor by
-- another run.

-- include: common

local jobs_key, gone_key = unpack(KEYS)
local max_gone = tonumber(ARGV[1])
local FIRST_JOB = 2
local ENDED, DIED = '2', 'D'

local may_have_been_forgotten = redis.call('ZCARD', gone_key) >= max_gone

local function published(run) return tonumber(string.match(run, '^%d+')) or 0 end

local function is_of_another_run(state, run)
  return run ~= '-' and string.match(state.run, '^%d') and state.run ~= run
end

local function is_settled(job, attempt, run)
  local entry = redis.call('HGET', jobs_key, job)
  if not entry then return may_have_been_forgotten end
  local state = common.parse_job(job, entry)
  if not state then return false end
  if is_of_another_run(state, run) then return published(state.run) > published(run) end
  return state.attempt > attempt or state.attempt == attempt and (state.rank == ENDED or state.rank == DIED)
end

local unsettled = {}
for place = FIRST_JOB, #ARGV, 3 do
  if not is_settled(ARGV[place], tonumber(ARGV[place + 1]), ARGV[place + 2]) then
    unsettled[#unsettled + 1] = (place - FIRST_JOB) / 3
  end
end
return unsettled
