-- Store the progress of a job in the result backend, unless its result there is an end or a state of the user's own.
--
-- KEYS
--   1 result  string: the job's result as Celery stores it, JSON with a member `status`
-- ARGV
--   1 progress  string: the result that tells of the progress, in the same form
--   2 lifetime  seconds that it is kept; 0 for ever
--
-- Returns 1 if the progress was stored, 0 if not.

local result_key = KEYS[1]
local progress, lifetime = ARGV[1], tonumber(ARGV[2])
local REPLACEABLE = {PENDING = true, STARTED = true, RETRY = true, PROGRESS = true}

local function status_of(stored)
  local readable, result = pcall(cjson.decode, stored)
  local status = readable and type(result) == 'table' and result.status
  return type(status) == 'string' and status or nil
end

local stored = redis.call('GET', result_key)
local status = stored and status_of(stored)
if status and not REPLACEABLE[status] then return 0 end

if lifetime > 0 then
  redis.call('SETEX', result_key, lifetime, progress)
else
  redis.call('SET', result_key, progress)
end
-- Celery's clients that wait for the result listen to the channel of this name.
redis.call('PUBLISH', result_key, progress)
return 1
