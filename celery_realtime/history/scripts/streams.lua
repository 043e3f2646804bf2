-- Shared by scripts that read or write streams.
--
-- The head of a stream is one line: "kind generation attempt state start position bytes run execution started". What
-- is kept of it begins at `start`, and ends at `position`: characters of a text, or items of JSON; in UTF-8 it has
-- `bytes`. `generation` counts, with gaps, how often it has begun anew. The others are of the start of the job's task
-- that it is of; `started` in ms.

local streams = {}

local HEAD = '^(%a+) (%d+) (%d+) (%a+) (%d+) (%d+) (%d+) (%S+) (%S+) (%d+)$'

-- Return the head of a stream; nil if there is none that can be read.
function streams.read_head(key, name)
  local kind, generation, attempt, state, start, position, bytes, run, execution, started =
    string.match(redis.call('HGET', key, name) or '', HEAD)
  if not kind then return nil end
  return {
    kind = kind, generation = tonumber(generation), attempt = tonumber(attempt), state = state,
    start = tonumber(start), position = tonumber(position), bytes = tonumber(bytes), run = run,
    execution = execution, started = tonumber(started),
  }
end

function streams.write_head(key, name, head)
  redis.call('HSET', key, name, string.format('%s %.0f %d %s %.0f %.0f %.0f %s %s %.0f', head.kind, head.generation,
    head.attempt, head.state, head.start, head.position, head.bytes, head.run, head.execution, head.started))
end

-- Whether each character of what is kept is one byte.
function streams.is_plain(head) return head.kind == 'text' and head.bytes == head.position - head.start end

-- Return how many characters, or items, a piece of what is kept has.
function streams.count(head, piece)
  if streams.is_plain(head) then return #piece end
  local _, count = string.gsub(piece, head.kind == 'text' and '[^\128-\191]' or '\n', '')
  return count
end

-- Return behind which byte to cut what is kept, at so many bytes or some more, so that nothing is divided.
function streams.cut_behind(kind, value, bytes)
  if kind == 'json' then return string.find(value, '\n', bytes, true) or #value end
  local following = string.find(value, '[^\128-\191]', bytes + 1)
  return following and following - 1 or #value
end
