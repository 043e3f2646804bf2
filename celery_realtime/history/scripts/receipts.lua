-- Shared by scripts that read or write receipts, behind common.lua.
--
-- Each process that appends is a writer, and numbers what it appends to a project: its writes, each try a write of its
-- own, and its events. The receipt of its latest write is the field "receipt:<writer>" of `meta`. It has four lines:
--
--   write epoch offset          the write, the epoch that it was stored in, and the project's offset then
--   number ...                  the numbers of its events
--   offset ...                  their offsets, as append.lua returns them
--   index offset ...            for each update of a workflow or of metadata, the index of the event that led to it,
--                               and its own offset
--
-- A writer has the answer to a write, or asks settle.lua for it, before the next one. So what is in its receipt is all
-- that it can be in doubt about, whatever others have stored since; and a write that comes late, after it was given up,
-- is refused.

local receipts = {}

local PREFIX = 'receipt:'
-- Buckets of `meta` in which a new writer looks for receipts that nobody needs any more.
local LOOKED_THROUGH = 20

function receipts.read(keys, writer) return redis.call('HGET', keys.meta, PREFIX .. writer) end

-- Return the number of the write that a receipt is of.
function receipts.write_of(receipt) return tonumber(string.match(receipt, '^%d+')) or 0 end

-- Return what a receipt says of events that are there: their numbers and their offsets, each as one text, and workflow
-- updates as append.lua returns them. What was stored in an earlier epoch has been lost.
function receipts.recall(keys, receipt, present_epoch)
  local epoch, numbers, offsets, made = string.match(receipt, '^%d+ (%S+) %d+\n([^\n]*)\n([^\n]*)\n(.*)$')
  if epoch ~= present_epoch then return '', '', {} end
  local updates = {}
  for index, offset in string.gmatch(made, '(%d+) (%d+)') do
    local id = offset .. '-0'
    local entry = redis.call('XRANGE', keys.events, id, id)[1]
    if entry then updates[#updates + 1] = {tonumber(index), entry[2][4], tonumber(offset)} end
  end
  return numbers, offsets, updates
end

-- Return the field of `meta` that a receipt is, and the receipt.
function receipts.make(writer, write, project, numbers, offsets, updates)
  local made = {}
  for _, update in ipairs(updates) do
    if update[3] > 0 then made[#made + 1] = string.format('%d %d', update[1], update[3]) end
  end
  return {PREFIX .. writer, string.format('%.0f %s %d\n%s\n%s\n%s', write, project.epoch, project.offset, numbers,
    offsets, table.concat(made, ' '))}
end

-- Forget receipts of writes of which all events have left the stream. So there are hardly more than there are events.
function receipts.forget_old(keys, offset)
  local cursor = redis.call('HGET', keys.meta, 'cursor') or '0'
  local oldest = redis.call('XRANGE', keys.events, '-', '+', 'COUNT', 1)[1]
  local first = oldest and tonumber(string.match(oldest[1], '^%d+')) or offset
  local following, fields = unpack(redis.call('HSCAN', keys.meta, cursor, 'MATCH', PREFIX .. '*', 'COUNT',
    LOOKED_THROUGH))
  for place = 1, #fields, 2 do
    local latest = tonumber(string.match(fields[place + 1], '^%d+ %S+ (%d+)') or '')
    if not latest or latest < first then redis.call('HDEL', keys.meta, fields[place]) end
  end
  redis.call('HSET', keys.meta, 'cursor', following)
end
