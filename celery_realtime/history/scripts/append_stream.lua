-- Append parts to one stream of a job, each once, in the order in which they come.
--
-- KEYS, all of one project
--   1 streams  hash of the job: name of a stream -> head, see streams.lua
--   2 writers  hash of the job: name, line end, writer -> receipt: generation, and of the last that this writer has
--              added with no other one in between where it began, how much it is, and its position in the stream
--   3 value    string: what is kept of the stream: a text, or items of JSON, each with a line end
--   4 recent   sorted set of the project: job, line end, name of each stream, by the time (s) of its latest part
-- ARGV
--   1 name        string: of the stream
--   2 kind        string: text or json
--   3 run         word: the mark of the job's publication, "-" if it has none
--   4 attempt     number
--   5 execution   word: the start of the job's task that the parts are of, "-" if it is not known
--   6 age         number: ms since that start
--   7 generation  number: that of the stream, unless another is on record
--   8 size        number: bytes that are kept of the stream, about
--   9 ttl         number: seconds that it is kept without another part
--  10 most        number: streams that are kept of the project
--  11 most_of_job number: streams that are kept of the job; beyond them, those of earlier starts of its task are let
--                 go, and if there are none of these, the stream is refused
--  12 member      string: the stream's in `recent`
--  13 told        number: the highest position in the stream, with this generation, that the caller has been told
--  14 ...         for each part: writer, begin, count, state (or ''), the position that its writer has been told last,
--                 up to where that was of what the writer has written, and what is to be stored
--
-- What a writer has written counts from 0. So a part that comes a second time is known, and it shows if one has not
-- come, or if the server has lost what it had: the stream goes on behind the hole then, and begins there.
--
-- Returns {generation, for each part its position, or -1 if that is not known any more or the part is of an earlier
-- start of the task, and the stream's state behind it; members of `recent` that are to be let go}.

-- include: common

-- include: streams

local streams_key, writers_key, value_key, recent_key = unpack(KEYS)
local name, kind, run, attempt, execution, age, generation, size, ttl = unpack(ARGV, 1, 9)
local most, most_of_job, member, told = unpack(ARGV, 10, 13)
attempt, age, generation = tonumber(attempt), tonumber(age), tonumber(generation)
size, ttl, most, told = tonumber(size), tonumber(ttl), tonumber(most), tonumber(told)
most_of_job = tonumber(most_of_job)
local FIRST_PART, PART_LENGTH = 14, 7
-- Streams that are let go at once.
local MOST_LET_GO = 20

local now = common.now()
local started = math.floor(now * 1000) - age

-- Tell whether these parts are of an earlier, or a later, start of the task than that which the head is of.
local function compare(head)
  if run ~= '-' and head.run ~= '-' and run ~= head.run then return run < head.run and -1 or 1 end
  if attempt ~= head.attempt then return attempt < head.attempt and -1 or 1 end
  if execution == '-' or head.execution == '-' or execution == head.execution then return 0 end
  return started < head.started and -1 or 1
end

local function new_head(least_generation)
  return {
    kind = kind, generation = math.max(generation, least_generation), attempt = attempt, state = 'open', start = 0,
    position = 0, bytes = 0, run = run, execution = execution, started = started,
  }
end

-- By writer, the receipts that are needed.
local receipts = {}

local function read_receipt(writer, head)
  local stored = redis.call('HGET', writers_key, name .. '\n' .. writer)
  local of_generation, begin, count, position = string.match(stored or '', '^(%d+) (%d+) (%d+) (%d+)$')
  if tonumber(of_generation or '') ~= head.generation then return {begin = 0, count = 0, position = 0} end
  return {begin = tonumber(begin), count = tonumber(count), position = tonumber(position)}
end

local function note_receipt(receipt, begin, count, position)
  if receipt.begin + receipt.count == begin and receipt.position + receipt.count == position then
    receipt.count = receipt.count + count
  else
    receipt.begin, receipt.count, receipt.position = begin, count, position
  end
end

-- Go on behind what is missing.
local function leap(head, position)
  redis.call('DEL', value_key)
  head.start, head.position, head.bytes = position, position, 0
end

local function append_part(head, place)
  local writer, begin, count, state, told_position, told_end, content = unpack(ARGV, place, place + PART_LENGTH - 1)
  begin, count, told_position, told_end = tonumber(begin), tonumber(count), tonumber(told_position), tonumber(told_end)
  local receipt = receipts[writer] or read_receipt(writer, head)
  receipts[writer] = receipt
  local stored_end = receipt.begin + receipt.count
  if state ~= '' then head.state = state end
  if count > 0 and begin < stored_end then
    return begin >= receipt.begin and receipt.position + begin - receipt.begin or -1
  end
  local missing = begin - math.max(stored_end, told_end)
  local position = math.max(head.position, told_position) + missing
  if position > head.position then leap(head, position) end
  if count > 0 then
    redis.call('APPEND', value_key, content)
    head.position, head.bytes = position + count, head.bytes + #content
    note_receipt(receipt, begin, count, position)
  end
  return position
end

-- Let the oldest go, in whole characters or items.
local function trim(head)
  if head.bytes <= size + size / 16 then return end
  local value = redis.call('GET', value_key)
  local cut = streams.cut_behind(kind, value, head.bytes - size)
  head.start = head.start + streams.count(head, string.sub(value, 1, cut))
  head.bytes = head.bytes - cut
  redis.call('SET', value_key, string.sub(value, cut + 1))
end

-- Return the streams of the job that are of earlier starts of its task.
local function of_earlier_starts()
  local job, members = string.sub(member, 1, #member - #name), {}
  for _, other in ipairs(redis.call('HKEYS', streams_key)) do
    local head = streams.read_head(streams_key, other)
    if not head or compare(head) > 0 then members[#members + 1] = job .. other end
  end
  return members
end

local function let_go(members)
  local surplus = math.min(redis.call('ZCARD', recent_key) - most, MOST_LET_GO)
  if surplus <= 0 then return members end
  for _, oldest in ipairs(redis.call('ZRANGE', recent_key, 0, surplus - 1)) do members[#members + 1] = oldest end
  return members
end

local before = {}
if redis.call('HEXISTS', streams_key, name) == 0 and redis.call('HLEN', streams_key) >= most_of_job then
  before = of_earlier_starts()
  if #before == 0 then
    return redis.error_reply('ERR its job has as many streams as realtime_streams_per_job allows, ' .. most_of_job)
  end
end

local head = streams.read_head(streams_key, name)
local order = head and compare(head) or 0
local answer = {}
if order < 0 or (head and head.kind ~= kind and order == 0) then
  for place = FIRST_PART, #ARGV, PART_LENGTH do
    answer[#answer + 1], answer[#answer + 2] = -1, ARGV[place + 3]
  end
  return {head.generation, answer, {}}
end
-- Of a head whose value is gone, evicted say, nothing is left but where it stood.
if head and order == 0 and redis.call('STRLEN', value_key) ~= head.bytes then leap(head, head.position) end
if not head or order > 0 then
  redis.call('DEL', value_key)
  head = new_head(head and head.generation + 1 or 0)
elseif head.execution == '-' then
  head.execution, head.started = execution, started
end
if head.run == '-' then head.run = run end
if head.generation == generation and told > head.position then leap(head, told) end
for place = FIRST_PART, #ARGV, PART_LENGTH do
  answer[#answer + 1] = append_part(head, place)
  answer[#answer + 1] = head.state
end
trim(head)
streams.write_head(streams_key, name, head)
for writer, receipt in pairs(receipts) do
  redis.call('HSET', writers_key, name .. '\n' .. writer, string.format('%.0f %.0f %.0f %.0f', head.generation,
    receipt.begin, receipt.count, receipt.position))
end
redis.call('ZADD', recent_key, now, member)
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, math.ceil(ttl)) end
return {head.generation, answer, let_go(before)}
