-- Read a stream of a job, from a position on.
--
-- KEYS, both of one project
--   1 streams  hash of the job: name of a stream -> head, see streams.lua
--   2 value    string: what is kept of the stream
-- ARGV
--   1 name        string: of the stream
--   2 generation  number: of the start of the stream that the position is of; 0 for whichever there is
--   3 from        number: the position; below 0, so many characters or items before the end
--   4 most        number: bytes that are wanted, about
--
-- A position that is of another start of the stream counts as 0.
--
-- Returns {kind, generation, attempt, state, start, position, from, where, bytes}, or an empty list if there is no such
-- stream. `bytes` begin at `from`, and may end within a character or item, if `where` is "head"; or they end at
-- `position`, and may begin before `from`, if it is "tail".

-- include: streams

local streams_key, value_key = unpack(KEYS)
local name, generation, from, most = unpack(ARGV)
generation, from, most = tonumber(generation), tonumber(from), tonumber(most)

local head = streams.read_head(streams_key, name)
if not head then return {} end
if generation ~= 0 and generation ~= head.generation then from = 0 end
local bytes = redis.call('STRLEN', value_key)
if bytes ~= head.bytes then head.start = head.position end -- evicted
if from < 0 then from = head.position + from end
from = math.min(math.max(from, head.start), head.position)

local function slice()
  local skipped, left = from - head.start, head.position - from
  if left == 0 then return 'head', '' end
  if skipped == 0 then return 'head', redis.call('GETRANGE', value_key, 0, most - 1) end
  if streams.is_plain(head) then return 'head', redis.call('GETRANGE', value_key, skipped, skipped + most - 1) end
  -- No character has more than four bytes.
  local tail = head.kind == 'text' and math.min(bytes, 4 * left) or bytes
  return 'tail', redis.call('GETRANGE', value_key, bytes - tail, -1)
end

local where, piece = slice()
return {head.kind, head.generation, head.attempt, head.state, head.start, head.position, from, where, piece}
