-- Tell a writer what its latest write to a project has come to, of which it had no answer. Refuses this write, and all
-- earlier ones, from now on: one that was given up may still be on its way.
--
-- KEYS: as append.lua has them; without `server`
-- ARGV
--   1 new_epoch  string: random; the epoch to go on in, should something of this project be lost
--   2 ttl        seconds that a project without new events is kept
--   3 writer     string: the writer
--   4 write      number: the highest write to refuse
--
-- Returns {epoch, numbers of the events as one text with blanks between, their offsets likewise, as append.lua has
-- them, workflow updates {index, JSON, offset}, 1 if further workflow updates are due, else 0}. Nothing has been stored
-- of an event that is not among these.

-- include: common

-- include: receipts

local keys = common.project_keys()
local new_epoch, ttl, writer, write = unpack(ARGV)
local project = common.open(keys, new_epoch, function() return false end, common.now(), tonumber(ttl))

local receipt = receipts.read(keys, writer)
local numbers, offsets, updates = '', '', {}
if receipt then numbers, offsets, updates = receipts.recall(keys, receipt, project.epoch) end
local refused = math.max(tonumber(write), receipt and receipts.write_of(receipt) or 0)
project.noted = receipts.make(writer, refused, project, numbers, offsets, updates)
if common.close(keys, project, common.now(), tonumber(ttl)) > 0 then receipts.forget_old(keys, project.offset) end
return {project.epoch, numbers, offsets, updates, project.due and 1 or 0}
