-- Return what access was taken back since a time; writes nothing.
--
-- KEYS
--   1 revoked  as in take_access.lua
--   2 ended    as there
--   3 record   string: which record this is
-- ARGV
--   1 since  time (s); what was taken back at that time is left out
--
-- Returns the record, or nil; then, of each of the sets, members and times (s) by turns.

local since = unpack(ARGV)

local answer = {redis.call('GET', KEYS[3])}
for place = 1, 2 do
  answer[place + 1] = redis.call('ZRANGEBYSCORE', KEYS[place], '(' .. since, '+inf', 'WITHSCORES')
end
return answer
