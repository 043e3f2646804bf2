-- Note how far a web server is, and see to it that the loss of any key of the record is noticed.
--
-- The record has a name. It is in a key of its own, and in the first of the sorted sets' entries; so a key that was
-- evicted, and one that was made anew since, lack it. Then the record gets another name, at which servers note again
-- what they remember.
--
-- KEYS
--   1 access   string: the record's name
--   2 revoked  sorted set, see take_access.lua; "record <name>" at -1; "lost <name>" at minus the time (s) at which
--              it was noticed that the revocations of that record are gone, by a server that did not remember them
--   3 ended    sorted set, see take_access.lua; "record <name>" at -1
--   4 servers  hash: by server, up to when it has carried out what is on record, and when it said so; "since": when
--              it was noticed that a list of them was lost, and 0 if none was
-- ARGV
--   1 name     of a record that begins now, if one does
--   2 server   string
--   3 state    string
--   4 keep     seconds that the record is kept
--   5 listed   1 if the server was listed a short time ago, and has to be still
--   6 ...      names of records that the server remembers

-- include: common

local DAY = 86400

local function name_in(key)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, -1, -1)) do
    local name = member:match('^record (.+)$')
    if name then return name end
  end
end

local name = redis.call('GET', KEYS[1])
if name and name:sub(1, 3) ~= 'v2-' then name = false end -- of a version that named no sorted sets
local revoked, ended = name_in(KEYS[2]), name_in(KEYS[3])

-- The list of servers was lost if there has been a record, and no list, or one that lacks what was on it.
local has_list, is_listed = redis.call('HEXISTS', KEYS[4], 'since'), redis.call('HEXISTS', KEYS[4], ARGV[2])
if has_list == 0 or (ARGV[5] == '1' and is_listed == 0) then
  local is_first = not (name or revoked or ended or ARGV[6]) and ARGV[5] ~= '1'
  redis.call('HSET', KEYS[4], 'since', is_first and '0' or string.format('%.6f', common.now()))
end

if not name or revoked ~= name or ended ~= name then
  redis.call('SET', KEYS[1], ARGV[1])
  for place = 2, 3 do
    redis.call('ZREMRANGEBYSCORE', KEYS[place], -1, -1)
    redis.call('ZADD', KEYS[place], -1, 'record ' .. ARGV[1])
  end
  local is_remembered = {}
  for place = 6, #ARGV do is_remembered[ARGV[place]] = true end
  for _, former in ipairs({name or '', ended or ''}) do
    if former ~= '' and former ~= revoked and not is_remembered[former] then
      redis.call('ZADD', KEYS[2], string.format('%.6f', -common.now()), 'lost ' .. former)
    end
  end
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], ARGV[4] - common.now(), '(-1')
redis.call('HSET', KEYS[4], ARGV[2], ARGV[3])
-- The first of them goes first where no server has said anything for so long: what goes after it is not lost.
redis.call('EXPIRE', KEYS[1], ARGV[4])
for place = 2, 4 do redis.call('EXPIRE', KEYS[place], ARGV[4] + DAY) end
