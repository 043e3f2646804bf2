-- Note of which projects jobs are. Nothing keeps an application from using the id of a job in several projects, so each
-- job has a list.
--
-- KEYS
--   1 places  hash: job id -> its projects, the latest first, with line ends between
-- ARGV
--   1 ttl   seconds that it all is kept
--   2 most  bytes of a job's list; beyond, its oldest projects are forgotten
--   3 ...   strings: id and project of each job

local places_key = unpack(KEYS)
local ttl, most = ARGV[1], tonumber(ARGV[2])
local FIRST_JOB = 3

-- Return a list with a project as its first.
local function with_first(project, list)
  local others = '\n' .. list .. '\n'
  local start, stop = string.find(others, '\n' .. project .. '\n', 1, true)
  if start then others = string.sub(others, 1, start) .. string.sub(others, stop + 1) end
  local joined = project .. string.sub(others, 1, -2)
  if #joined <= most then return joined end
  return string.match(string.sub(joined, 1, most), '^(.*)\n') or project
end

for place = FIRST_JOB, #ARGV, 2 do
  local job, project = ARGV[place], ARGV[place + 1]
  local list = redis.call('HGET', places_key, job)
  local placed = list and with_first(project, list) or project
  if placed ~= list then redis.call('HSET', places_key, job, placed) end
end
redis.call('EXPIRE', places_key, ttl)
