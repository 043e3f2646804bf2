-- Store the progress of a job in the result backend, if what is there has not changed since it was read.
--
-- KEYS
--   1 result  string: the job's result as Celery stores it
-- ARGV
--   1 seen      string: the result that was read, '' if there was none
--   2 progress  string: the result that tells of the progress, in the same form
--   3 lifetime  seconds that it is kept; 0 for ever
--
-- Returns 1 if the progress was stored, 0 if the result has changed.

local result_key = KEYS[1]
local seen, progress, lifetime = ARGV[1], ARGV[2], tonumber(ARGV[3])

if (redis.call('GET', result_key) or '') ~= seen then return 0 end

if lifetime > 0 then
  redis.call('SETEX', result_key, lifetime, progress)
else
  redis.call('SET', result_key, progress)
end
-- Celery's clients that wait for the result listen to the channel of this name.
redis.call('PUBLISH', result_key, progress)
return 1
