-- Note of which projects jobs are. Nothing keeps an application from using the id of a job in several projects, so each
-- job has a list.
--
-- KEYS
--   1 places  hash: job id -> its projects, the latest first, with line ends between
--   2 older   hash: project, line end and job id, of projects for which there was no room in a job's list
-- ARGV
--   1 ttl   seconds that it all is kept
--   2 most  bytes of a job's list
--   3 ...   strings: id and project of each job

local places_key, older_key = unpack(KEYS)
local ttl, most = ARGV[1], tonumber(ARGV[2])
local FIRST_JOB = 3

-- Return a list with a project as its first, and the rest for which there is no room.
local function with_first(project, list)
  local others = '\n' .. list .. '\n'
  local start, stop = string.find(others, '\n' .. project .. '\n', 1, true)
  if start then others = string.sub(others, 1, start) .. string.sub(others, stop + 1) end
  local joined = project .. string.sub(others, 1, -2)
  if #joined <= most then return joined, '' end
  local kept = string.match(string.sub(joined, 1, most), '^(.*)\n') or project
  return kept, string.sub(joined, #kept + 2)
end

for place = FIRST_JOB, #ARGV, 2 do
  local job, project = ARGV[place], ARGV[place + 1]
  local list = redis.call('HGET', places_key, job)
  local placed, older = project, ''
  if list then placed, older = with_first(project, list) end
  if placed ~= list then redis.call('HSET', places_key, job, placed) end
  for other in string.gmatch(older, '[^\n]+') do redis.call('HSET', older_key, other .. '\n' .. job, '') end
end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ttl) end
