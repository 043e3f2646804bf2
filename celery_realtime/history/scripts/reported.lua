-- Note that a reaper is done with the jobs of an incarnation: whatever it was to report of them is on record.
--
-- KEYS
--   1 lapsed  hash: incarnation -> how many reapers have found that its lease had lapsed, and are not done
-- ARGV
--   1 incarnation  string
--
-- Returns nothing.

local lapsed_key, incarnation = KEYS[1], ARGV[1]

if redis.call('HEXISTS', lapsed_key, incarnation) == 1 then redis.call('HINCRBY', lapsed_key, incarnation, -1) end
