"""Remember what each project was told, on Redis.

Of each project there is, under keys that share a hash slot: ``meta`` (epoch, last offset), ``events`` (a stream whose
ids are the offsets), ``jobs`` (the latest state of each job), ``live`` (which have not ended), ``ended`` (when the
others did, so that they can leave) and ``flows`` (the sums of workflows); behind Sentinels also ``server``.
One script decides whether an event is news, gives it its offset and stores it, in one step on the server.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import secrets
import time
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
import redis

from celery_realtime.bounded import BoundedDict
from celery_realtime.encoding import legible
from celery_realtime.events import (
    PROGRESS_EVENT,
    STATUS_EVENT,
    WORKFLOW_EVENT,
    Job,
    Outgoing,
    ProgressUpdate,
    now,
    stamp,
)
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.logs import describe
from celery_realtime.redis_connection import connect
from celery_realtime.settings import is_sentinel, redact

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOG_INTERVAL = 60.0
ENDED_TTL = 3600.0
MAX_RECOVERED = 1000
MAX_SNAPSHOT = 1000

#: Bytes of jobs, and of missed events, that an answer holds. Both may be three times as long in JSON of nothing but
#: ASCII, and aiohttp, which Python's asyncio clients use, ends a connection over a message of 4 MiB.
MAX_ANSWER = 1024 * 1024
RUNNING_RANK = 1

#: Seconds for which it is known that a job was cancelled, and that an access was taken back.
CANCELLED_TTL = 86400
REVOKED_TTL = 30 * 86400

#: Seconds that it is known what a worker held which was never heard of again.
HELD_TTL = 86400

#: Jobs of a project that have not ended, beyond which the ones that were silent longest are forgotten.
MAX_LIVE = 100000

#: Projects of which a process remembers how far it has seen them.
WITNESSED = 10000

#: Whatever can go wrong with Redis.
ERRORS = (redis.RedisError,)

#: What passes by itself.
OUTAGES = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.ReadOnlyError, redis.exceptions.BusyLoadingError)

# What one key lacks and another knows was evicted, or lost in a failover: history begins anew, under another epoch.
_LET_GO = """
local function is_whole(epoch, offset, count, known_epoch, known_offset)
  if not epoch or not offset or offset < 0 or offset >= 1e13 or offset % 1 ~= 0 then return false end
  if known_epoch == epoch and known_offset > offset then return false end
  if count ~= redis.call('HLEN', KEYS[3]) then return false end
  if #redis.call('XRANGE', KEYS[2], (offset + 1) .. '-0', '+', 'COUNT', 1) > 0 then return false end
  return offset == 0 or redis.call('EXISTS', KEYS[2]) == 1
end

local function begin_anew(epoch)
  redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', 0, 'jobs', 0)
end

-- KEYS[7], where Sentinels choose another server when one dies, says which server counted last. The next one may lack
-- the newest events, and would give their offsets away again: so it counts in an epoch of its own.
local function succeed(epoch, another, ttl)
  if not KEYS[7] then return epoch end
  local told = redis.pcall('INFO', 'replication')
  local server = type(told) == 'string' and string.match(told, 'master_replid:(%x+)') or 'unknown'
  if redis.call('GET', KEYS[7]) == server then return epoch end
  redis.call('SET', KEYS[7], server, 'EX', math.ceil(tonumber(ttl)))
  if not epoch then return nil end
  redis.call('HSET', KEYS[1], 'epoch', another)
  redis.call('XTRIM', KEYS[2], 'MAXLEN', 1)
  return another
end

local function forget(jobs, live, most)
  local surplus = math.min(redis.call('ZCARD', live) - most, 100)
  if surplus > 0 then
    local gone = redis.call('ZRANGE', live, 0, surplus - 1)
    redis.call('HDEL', jobs, unpack(gone))
    redis.call('ZREM', live, unpack(gone))
  end
end

local function let_go(jobs, flows, ended, before, most)
  local gone = redis.call('ZRANGEBYSCORE', ended, '-inf', before, 'LIMIT', 0, 100)
  local surplus = math.min(redis.call('ZCARD', ended) - most, 100)
  if surplus > 0 then
    for _, job in ipairs(redis.call('ZRANGE', ended, 0, surplus - 1)) do gone[#gone + 1] = job end
  end
  if #gone > 0 then
    redis.call('HDEL', jobs, unpack(gone))
    for _, name in ipairs(gone) do
      if string.sub(name, 1, 2) == 'w:' then redis.call('HDEL', flows, string.sub(name, 3)) end
    end
    redis.call('ZREM', ended, unpack(gone))
  end
end
"""

# A job's entry: "attempt rank percent status-offset progress-offset worker", its last status, its last progress; one a
# line. A second "running" of an attempt is news when another worker says it: the message was delivered again.
# An event that repeats the stored one to the letter is a second try of a write whose answer was lost.
_APPEND = (
    _LET_GO
    + """
local meta, events, jobs, ended, flows, live = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local told_at, project = ARGV[5], ARGV[6]
local size, ttl, ended_ttl = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local clock = tonumber(time[1]) + tonumber(time[2]) / 1000000
local found = redis.call('HMGET', meta, 'epoch', 'offset', 'jobs')
local epoch, offset = succeed(found[1], ARGV[1], ARGV[3]), tonumber(found[2] or 0)
if not is_whole(epoch, offset, tonumber(found[3] or 0), ARGV[7], tonumber(ARGV[8])) then
  epoch, offset = ARGV[1], 0
  begin_anew(epoch)
end
local offsets, flow_answer = {}, {}

local kinds = {queued = 2, running = 3, done = 4, failed = 5}

-- What is no entry of ours counts as none, and is written anew: it must not stop all that comes after it.
local function read(job)
  local entry = redis.call('HGET', jobs, job)
  if not entry then return nil end
  local a, r, p, so, po, w, kind, share, root, s, g = string.match(entry,
    '^(%S+) ([012L]) (%S+) (%d+) (%d+) (%S+) (%S+) (%S+) (%S+)\\n([^\\n]*)\\n(.*)$')
  if not (tonumber(a) and tonumber(p) and tonumber(share) and kinds[kind]) then return nil end
  return {attempt = tonumber(a), rank = r, percent = tonumber(p), status_at = tonumber(so), progress_at = tonumber(po),
          worker = w, kind = kind, share = tonumber(share), root = root, status = s, progress = g}
end

local function write(job, state)
  redis.call('HSET', jobs, job, string.format('%d %s %s %d %d %s %s %s %s\\n', state.attempt, state.rank,
    state.percent, state.status_at, state.progress_at, state.worker, state.kind, state.share, state.root)
    .. state.status .. '\\n' .. state.progress)
end

local tag = ''
local function store(event, payload)
  offset = offset + 1
  redis.call('XADD', events, 'MAXLEN', '~', size, offset .. '-0', 'e', event, 'p', payload, 't', clock, 'b', tag)
  return offset
end

-- Where an event is that may have been stored, the answer having been lost: its tag has a question mark.
local function stored()
  if string.sub(tag, 1, 1) ~= '?' then return nil end
  tag = string.sub(tag, 2)
  for _, entry in ipairs(redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1000)) do
    if entry[2][8] == tag and entry[2][2] ~= 'agent_workflow' then return tonumber(string.match(entry[1], '%d+')) end
  end
end

-- A workflow: total, queued, running, done, failed, sum of its jobs' shares of 100, the progress told last.
local function read_flow(root)
  local flow = {}
  for number in string.gmatch(redis.call('HGET', flows, root) or '', '%S+') do flow[#flow + 1] = tonumber(number) end
  return #flow == 7 and flow or nil
end

-- A job that is the only one of its own is not counted: the second one counts it, too.
local function account(index, job, before, after)
  if after.root == '-' then return end
  local flow = read_flow(after.root)
  if not flow then
    if job == after.root then return end
    flow = {0, 0, 0, 0, 0, 0, -1}
    local first = read(after.root)
    if first then flow[1], flow[kinds[first.kind]], flow[6] = 1, 1, first.share end
    before = nil
  end
  if before then
    flow[kinds[before.kind]] = flow[kinds[before.kind]] - 1
    flow[6] = flow[6] - before.share
  else
    flow[1] = flow[1] + 1
  end
  flow[kinds[after.kind]] = flow[kinds[after.kind]] + 1
  flow[6] = flow[6] + after.share
  local progress = math.floor(flow[6] / flow[1] + 0.000001)
  local news = not before or before.kind ~= after.kind or progress ~= flow[7]
  flow[7] = progress
  redis.call('HSET', flows, after.root, table.concat(flow, ' '))
  if flow[2] + flow[3] == 0 then
    redis.call('ZADD', ended, clock, 'w:' .. after.root)
  else
    redis.call('ZREM', ended, 'w:' .. after.root)
  end
  if news and flow[1] > 1 then
    local payload = string.format('{"event":"workflow_update","root_id":%s,"project_id":%s,"total":%d,"queued":%d,' ..
      '"running":%d,"done":%d,"failed":%d,"progress":%d,"timestamp":%s}', cjson.encode(after.root), project, flow[1],
      flow[2], flow[3], flow[4], flow[5], progress, told_at)
    flow_answer[#flow_answer + 1] = {index, payload, store('agent_workflow', payload)}
  end
end

local function newer(state, attempt, rank, worker)
  if rank == 'E' then return state and state.attempt == attempt and state.rank == '0' end
  if rank == 'L' then
    return state and state.attempt == attempt and state.rank == '1' and (worker == '-' or worker == state.worker)
  end
  if not state or attempt > state.attempt then return true end
  if attempt < state.attempt then return false end
  if state.rank == 'L' then return rank ~= '0' end
  if rank == '1' and state.rank == '1' then return worker ~= state.worker end
  return tonumber(rank) > tonumber(state.rank)
end

local function status(event, payload, job, attempt, rank, worker, kind, root, index)
  local state = read(job)
  if state and state.status == payload then return state.status_at end
  if not newer(state, attempt, rank, worker) then return 0 end
  if rank == 'E' then rank = '2' end
  local same = state and state.attempt == attempt
  local at = store(event, payload)
  local share = (kind == 'done' or kind == 'failed') and 100 or (state and state.share or 0)
  local after = {attempt = attempt, rank = rank, worker = worker, kind = kind, share = share,
    root = state and state.root or root, percent = same and state.percent or 0, status_at = at,
    progress_at = same and state.progress_at or 0, status = payload, progress = same and state.progress or ''}
  write(job, after)
  account(index, job, state, after)
  if rank == '2' or rank == 'L' then
    redis.call('ZADD', ended, clock, job)
    redis.call('ZREM', live, job)
  else
    if state and (state.rank == '2' or state.rank == 'L') then redis.call('ZREM', ended, job) end
    redis.call('ZADD', live, at, job)
  end
  return at
end

local function progress(event, payload, job, attempt, percent, root, index)
  local state, before = read(job), read(job)
  if state and state.progress == payload then return state.progress_at end
  if state then
    if attempt < state.attempt then return 0 end
    if attempt == state.attempt and (state.rank == 'L' or tonumber(state.rank) > 1 or percent < state.percent) then
      return 0
    end
  else
    state = {attempt = attempt, rank = '1', worker = '-', kind = 'running', share = 0, root = root, percent = 0,
      status_at = 0, progress_at = 0, status = '', progress = ''}
  end
  local at = store(event, payload)
  if attempt > state.attempt then
    state.attempt, state.rank, state.kind = attempt, '1', 'running'
  end
  state.share = math.max(state.share, percent)
  state.percent, state.progress_at, state.progress = percent, at, payload
  write(job, state)
  redis.call('ZADD', live, at, job)
  if before and (before.rank == '2' or before.rank == 'L') then redis.call('ZREM', ended, job) end
  account(index, job, before, state)
  return at
end

for number, told in ipairs(cmsgpack.unpack(ARGV[10])) do
  local payload = ARGV[10 + number]
  local event, job, attempt, rank, percent, worker, kind, root, its_tag = unpack(told)
  tag = its_tag
  local at = stored()
  if not at then
    if rank == 'p' then
      at = progress(event, payload, job, attempt, percent, root, number - 1)
    elseif rank == 'c' then
      at = store(event, payload)
    else
      at = status(event, payload, job, attempt, rank, worker, kind, root, number - 1)
    end
  end
  offsets[number] = at
end
let_go(jobs, flows, ended, clock - ended_ttl, size)
forget(jobs, live, tonumber(ARGV[9]))
redis.call('HSET', meta, 'offset', offset, 'jobs', redis.call('HLEN', jobs))
for _, old in ipairs(redis.call('XRANGE', events, '-', '+', 'COUNT', 4)) do
  if (tonumber(old[2][6] or '') or 0) < clock - ttl then redis.call('XDEL', events, old[1]) end
end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, math.ceil(ttl)) end
-- As one text, which clients read faster than many numbers.
return {epoch, table.concat(offsets, ' '), flow_answer}
"""
)

_APPEND_SHA = hashlib.sha1(_APPEND.encode(), usedforsecurity=False).hexdigest()

# KEYS: the workers by the time of their last sign of life, this worker's jobs. ARGV: worker, seconds that it all is
# kept, number of jobs, id and JSON of each. Answers whether the lease was still there.
_HOLD = """
local clock = redis.call('TIME')
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], tonumber(clock[1]) + tonumber(clock[2]) / 1000000, ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[2])
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[2], ARGV[2])
return known and 1 or 0
"""

# KEYS: the workers, when somebody last looked, the queued jobs by the time of their expiry, their JSON, the running
# ones by the time at which they count as stalled, what to tell then. ARGV: seconds
# that a lease lasts, seconds between two looks, seconds of patience with an expiry, start of the keys of workers' jobs.
# Whoever looks first after nobody could (Redis was away, say) gives every worker the time of a lease to come back.
# What is found is hidden from other reapers for the time of a lease; its finder says when it is dealt with.
_REAP = """
local time = redis.call('TIME')
local clock = tonumber(time[1]) + tonumber(time[2]) / 1000000
local lease, pause = tonumber(ARGV[1]), tonumber(ARGV[2])
local seen, patient = unpack(redis.call('HMGET', KEYS[2], 'seen', 'patient'))
if not seen or clock - tonumber(seen) > 3 * pause then patient = clock + lease end
redis.call('HSET', KEYS[2], 'seen', clock, 'patient', patient)
redis.call('EXPIRE', KEYS[2], math.ceil(lease * 10))
local lost, expired = {}, {}
if clock >= tonumber(patient) then
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', clock - lease, 'LIMIT', 0, 10)) do
    redis.call('ZADD', KEYS[1], clock, worker)
    lost[#lost + 1] = worker
    lost[#lost + 1] = redis.call('HVALS', ARGV[4] .. worker)
  end
end
for _, job in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', clock - tonumber(ARGV[3]), 'LIMIT', 0, 100)) do
  redis.call('ZADD', KEYS[3], clock + lease, job)
  expired[#expired + 1] = job
  expired[#expired + 1] = redis.call('HGET', KEYS[4], job) or ''
end
local stalled = {}
for _, job in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', clock, 'LIMIT', 0, 100)) do
  stalled[#stalled + 1] = redis.call('HGET', KEYS[6], job) or ''
  redis.call('ZREM', KEYS[5], job)
  redis.call('HDEL', KEYS[6], job)
end
return {lost, expired, stalled}
"""

# KEYS: the running jobs by the time at which they count as stalled, what to tell then. ARGV: job, seconds, JSON.
_AWAIT = """
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], tonumber(time[1]) + tonumber(time[2]) / 1000000 + tonumber(ARGV[2]), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
"""

# since_offset -1: a snapshot only. An offset from the future means that the server lost its newest writes: what comes
# next would repeat offsets that clients have seen, so the epoch has to change. Of the jobs, those that have not ended
# come first, and of each kind the latest.
_READ = (
    _LET_GO
    + """
local meta, events, jobs, ended, flows, live = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local since_epoch, since, most = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local found = redis.call('HMGET', meta, 'epoch', 'offset', 'jobs')
local epoch, offset = succeed(found[1], ARGV[1], ARGV[5]), tonumber(found[2] or 0)
if not is_whole(epoch, offset, tonumber(found[3] or 0), '', 0) then
  epoch, offset = ARGV[1], 0
  begin_anew(epoch)
  redis.call('EXPIRE', meta, ARGV[5])
elseif since_epoch == epoch and since > offset then
  epoch = ARGV[1]
  redis.call('HSET', meta, 'epoch', epoch)
end
let_go(jobs, flows, ended, tonumber(redis.call('TIME')[1]) - tonumber(ARGV[6]), tonumber(ARGV[7]))
redis.call('HSET', meta, 'jobs', redis.call('HLEN', jobs))
local missed, complete = {}, 0
if since_epoch == epoch and since >= 0 and offset - since <= most then
  missed = redis.call('XRANGE', events, (since + 1) .. '-0', '+')
  local bytes = 0
  for _, entry in ipairs(missed) do bytes = bytes + #(entry[2][4] or '') end
  if #missed == offset - since and bytes <= tonumber(ARGV[9]) then complete = 1 else missed = {} end
end
local shown = tonumber(ARGV[8])
if shown == 0 then return {epoch, offset, complete, missed, {}, 0, {}} end
local names = redis.call('ZREVRANGE', live, 0, shown - 1)
local past = #names < shown and redis.call('ZREVRANGE', ended, 0, shown - 1) or {}
for _, name in ipairs(past) do
  if #names < shown and string.sub(name, 1, 2) ~= 'w:' then names[#names + 1] = name end
end
local entries, room = {}, tonumber(ARGV[9])
for start = 1, #names, 100 do
  local found_jobs = redis.call('HMGET', jobs, unpack(names, start, math.min(start + 99, #names)))
  for _, entry in ipairs(found_jobs) do
    room = room - (entry and #entry or 0)
    if room < 0 then break end
    entries[#entries + 1] = entry
  end
  if room < 0 then break end
end
return {epoch, offset, complete, missed, entries, redis.call('HLEN', jobs), redis.call('HGETALL', flows)}
"""
)


class Found(msgspec.Struct, frozen=True):
    """What a reaper found.

    Attributes:
        lost: The jobs of each worker whose lease has lapsed.
        expired: Jobs whose time to be started is over, whatever has become of them.
        stalled: The last progress of jobs that have not been heard of for as long as they said they might.
    """

    lost: dict[str, list[Job]]
    expired: list[Job]
    stalled: list[ProgressUpdate]


class Snapshot(msgspec.Struct, frozen=True):
    """What a subscriber is told first.

    Attributes:
        epoch: Changes when history was lost.
        offset: Of the newest event.
        recovered: Whether ``events`` is all that came after the client's ``since``.
        jobs: The latest state of live and recently ended jobs.
        jobs_total: How many there are; when ``jobs`` has fewer, it has those that live, and of them the latest, first.
        workflows: Where every workflow of more than one job is.
        events: ``{event, data}`` of what was missed, in order; empty unless ``recovered``.
    """

    epoch: str
    offset: int
    recovered: bool
    jobs: list[dict[str, Any]]
    jobs_total: int
    workflows: list[dict[str, Any]]
    events: list[dict[str, Any]]


class History:
    """The history of every project of a channel.

    Args:
        url: Redis URL.
        channel: Keeps apart what shares a Redis.
        size: Events, and ended jobs, kept for each project.
        ttl: Seconds that they are kept.

    Raises:
        ImproperlyConfigured: The URL cannot be used.
    """

    def __init__(self, url: str, channel: str, size: int, ttl: float) -> None:
        self._url = url
        self._logged_at = -LOG_INTERVAL
        self._prefix = f"celery-realtime:{quote(channel, safe='')}:"
        self._size = size
        self._ttl = ttl
        #: By ``id``, events of which it is not known whether they have been stored, and their tags.
        self._doubtful: BoundedDict[int, tuple[Outgoing, str]] = BoundedDict(WITNESSED)
        self._witnessed: BoundedDict[str, tuple[str, int]] = BoundedDict(WITNESSED)
        try:
            self._redis = connect(url)
        except (ValueError, TypeError, redis.RedisError) as error:
            raise ImproperlyConfigured(
                f"realtime_history_url {redact(url)!r} cannot be used ({type(error).__name__})"
            ) from None
        self._read = self._redis.register_script(_READ)
        self._hold = self._redis.register_script(_HOLD)
        self._await = self._redis.register_script(_AWAIT)
        self._reap = self._redis.register_script(_REAP)

    def append(self, events: list[Outgoing]) -> list[list[Outgoing]] | None:
        """Store events, and return what to tell of each: itself with epoch and offset, and how its workflow stands.

        There is nothing to tell of an event that is no news: its job has come further, to a higher attempt, or to a
        higher rank in the same one.

        Returns:
            What to tell, or None when Redis cannot be reached. Some may have been stored then; storing a status or
            progress again changes nothing. When Redis refuses to store (it is full, say) they come back as they are:
            better told without an offset than not at all.
        """
        tags = {id(event): self._tag(event) for event in events}
        try:
            appended = self._append_all(events, tags)
        except OUTAGES as error:
            for event in events:
                self._doubtful[id(event)] = (event, tags[id(event)].removeprefix("?"))
            self._log("history cannot reach %s: %s", error)
            return None
        except redis.RedisError as error:
            self._log("history is refused by %s, so events go out without it: %s", error)
            appended = [[event] for event in events]
        for event in events:
            self._doubtful.pop(id(event))
        return appended

    def _log(self, message: str, error: Exception) -> None:
        if time.monotonic() - self._logged_at >= LOG_INTERVAL:
            self._logged_at = time.monotonic()
            logger.error(message, redact(self._url), describe(error))

    def _append_all(self, events: list[Outgoing], tags: dict[int, str]) -> list[list[Outgoing]]:
        groups = _by_project(events)
        appends = [self._append_command(name, [event for _, event in group], tags) for name, group in groups.items()]
        answers: dict[int, list[Outgoing]] = {}
        replies = self._run([*self._hold_commands(events), *self._place_commands(events), *appends])[-len(appends) :]
        for (project_id, group), reply in zip(groups.items(), replies, strict=True):
            if isinstance(reply, Exception):
                self._log("history is refused by %s, so events go out without it: %s", reply)
                answers.update((position, [event]) for position, event in group)
            else:
                answers.update(self._answers(project_id, group, reply))
        self._note_expiries([event for event in events if event.deadlines.expires_at is not None])
        self._note_stalls([event for event in events if event.deadlines.stall_after is not None])
        return [answers[position] for position in range(len(events))]

    def _answers(
        self, project_id: str, group: list[tuple[int, Outgoing]], reply: list[Any]
    ) -> dict[int, list[Outgoing]]:
        epoch, places, flows = reply
        word, offsets = epoch.decode(errors="replace"), [int(place) for place in places.split()]
        self._witness(project_id, word, [*offsets, *(offset for _, _, offset in flows)])
        answers: dict[int, list[Outgoing]] = {}
        for (position, event), offset in zip(group, offsets, strict=True):
            answers[position] = [stamp(event, {"epoch": word, "offset": offset})] if offset else []
        for index, payload, offset in flows:
            flow = Outgoing(project_id, WORKFLOW_EVENT, payload, rank=0)
            answers[group[index][0]].append(stamp(flow, {"epoch": word, "offset": offset}))
        return answers

    def _run(self, commands: list[list[Any]]) -> list[Any]:
        """Run commands in one round trip, and return their answers; one that Redis refuses is an exception among them.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        replies = self._run_once(commands)
        unknown = [place for place, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
        if unknown:
            self._redis.script_load(_APPEND)
            for place, reply in zip(unknown, self._run_once([commands[place] for place in unknown]), strict=True):
                replies[place] = reply
        outage = next((reply for reply in replies if isinstance(reply, OUTAGES)), None)
        if outage is not None:
            raise outage
        return replies

    def _run_once(self, commands: list[list[Any]]) -> list[Any]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            return pipeline.execute(raise_on_error=False)

    def _note_expiries(self, events: list[Outgoing]) -> None:
        for event in events:
            expiring, jobs = self._lease_keys("expiring", "expiring-jobs")
            self._redis.zadd(expiring, {event.job_id or "": event.deadlines.expires_at or 0.0})
            self._redis.hset(jobs, event.job_id or "", _job_json(event))

    def _place_commands(self, events: list[Outgoing]) -> list[list[Any]]:
        """Remember which projects jobs are of, for a ttl at least: one hash for each, of which the last two count."""
        known = [event for event in events if event.job_id and event.rank is not None]
        if not known:
            return []
        key = self._place_keys()[0]
        places = [part for event in known for part in (legible(event.job_id or ""), event.project_id)]
        return [["HSET", key, *places], ["EXPIRE", key, max(1, int(self._ttl * 2))]]

    def _place_keys(self) -> list[str]:
        ordinal = int(time.time() // self._ttl)
        return [f"{self._prefix}{{places}}:{one}" for one in (ordinal, ordinal - 1, ordinal + 1)]

    def project_of(self, job_id: str) -> str | None:
        """Return the project of a job that has been told of in the last ``ttl`` seconds, or None.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            for key in self._place_keys():  # a host whose clock is ahead may have written into the next one
                pipeline.hget(key, legible(job_id))
            found: list[Any] = pipeline.execute()
        return next((place.decode(errors="replace") for place in found if place is not None), None)

    def job(self, project_id: str, job_id: str) -> dict[str, Any] | None:
        """Return the latest state of one job, as the snapshot has it, or None when it is not known.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        found: Any = self._redis.hget(self._keys(project_id)[2], legible(job_id))
        return None if found is None else _job(found)

    def _tag(self, event: Outgoing) -> str:
        """Return what tells an event from all others, and whether it may have been stored already."""
        doubtful = self._doubtful.get(id(event))
        return secrets.token_hex(6) if doubtful is None else "?" + doubtful[1]

    def _witness(self, project_id: str, epoch: str, offsets: list[int]) -> None:
        """Remember how far a project is, so that a server that has lost that much does not pass for whole."""
        known_epoch, known = self._witnessed.get(project_id, ("", 0))
        self._witnessed[project_id] = epoch, max(offsets + [known] * (known_epoch == epoch))

    def _append_command(self, project_id: str, events: list[Outgoing], tags: dict[int, str]) -> list[Any]:
        keys = self._keys(project_id)
        args: list[Any] = [_new_epoch(), self._size, self._ttl, min(ENDED_TTL, self._ttl)]
        args += [msgspec.json.encode(now()), msgspec.json.encode(project_id)]
        args += [*self._witnessed.get(project_id, ("", 0)), MAX_LIVE]
        args.append(_packed([_about(event, tags[id(event)]) for event in events]))
        args += [event.payload for event in events]
        return ["EVALSHA", _APPEND_SHA, len(keys), *keys, *args]

    def read(
        self,
        project_id: str,
        since_epoch: str = "",
        since_offset: int = -1,
        most_jobs: int = MAX_SNAPSHOT,
        most_bytes: int = MAX_ANSWER,
    ) -> Snapshot:
        """Return a project's snapshot, and what came after ``since``: all of it, or nothing.

        Args:
            project_id: The project.
            since_epoch: Where somebody stopped hearing it.
            since_offset: Where in that epoch; -1 for nowhere.
            most_jobs: Most jobs in the snapshot; 0 for no workflows either.
            most_bytes: Most bytes of jobs, and of missed events.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        epoch, offset, complete, missed, jobs, total, flows = self._read(
            keys=self._keys(project_id),
            args=[
                *(_new_epoch(), since_epoch, since_offset, min(MAX_RECOVERED, self._size)),
                *(max(1, int(self._ttl)), min(ENDED_TTL, self._ttl), self._size),
                *(most_jobs, most_bytes),
            ],
        )
        word = epoch.decode(errors="replace")
        told = [job for job in (_job(entry) for entry in reversed(jobs) if entry) if job is not None]
        events = _all_missed(missed, word)
        return Snapshot(
            epoch=word,
            offset=offset,
            recovered=bool(complete) and events is not None,
            jobs=sorted(told, key=lambda job: str(job.get("timestamp"))),
            jobs_total=total,
            workflows=_workflows(project_id, flows),
            events=events or [],
        )

    def recent(self, project_id: str) -> list[dict[str, Any]]:
        """Return the events that are kept of a project, in order, as ``{event, data}``.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        epoch = self.read(project_id, most_jobs=0).epoch
        found: Any = self._redis.xrange(self._keys(project_id)[1])
        return [_missed((name, [part for field in fields.items() for part in field]), epoch) for name, fields in found]

    def position(self, project_id: str) -> dict[str, Any] | None:
        """Return a project's epoch and offset, or None when Redis cannot be reached."""
        try:
            now_at = self.read(project_id, most_jobs=0)
        except redis.RedisError as error:
            self._log("history cannot reach %s: %s", error)
            return None
        return {"epoch": now_at.epoch, "offset": now_at.offset}

    def _keys(self, project_id: str) -> list[str]:
        start = f"{self._prefix}{{{quote(project_id, safe='')}}}:"
        names = ["meta", "events", "jobs", "ended", "flows", "live", *(["server"] if is_sentinel(self._url) else [])]
        return [start + name for name in names]

    def _note_stalls(self, events: list[Outgoing]) -> None:
        for event in events:
            keys = self._lease_keys("stalling", "stalling-jobs")
            self._await(keys=keys, args=[event.job_id or "", event.deadlines.stall_after or 0.0, _progress_json(event)])

    # -- leases -------------------------------------------------------------------------------------------------

    def hold(self, worker: str, jobs: list[Job], lease: float) -> bool:
        """Renew a worker's lease on the jobs that it holds.

        Args:
            worker: The worker's host name.
            jobs: All that it has taken from the queue and not finished.
            lease: Seconds until it lapses; what is stored outlives that, for the reaper.

        Returns:
            Whether the lease was still there; if not, the jobs may have been declared lost.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        told = [part for job in jobs for part in (job.job_id, msgspec.json.encode(job))]
        alive, held = self._lease_keys("alive", f"held:{worker}")
        return bool(self._hold(keys=[alive, held], args=[worker, int(max(lease * 100, HELD_TTL)), len(jobs), *told]))

    def _hold_commands(self, events: list[Outgoing]) -> list[list[Any]]:
        """Put jobs that start among those of their worker, which may be killed before it renews its lease."""
        started: dict[str, list[Any]] = {}
        for event in events:
            if event.rank == RUNNING_RANK and event.standing.worker and event.job_id:
                started.setdefault(event.standing.worker, []).extend([legible(event.job_id), _job_json(event)])
        commands: list[list[Any]] = []
        for worker, jobs in started.items():
            [held] = self._lease_keys(f"held:{legible(worker)}")
            commands += [["HSET", held, *jobs], ["EXPIRE", held, HELD_TTL]]
        return commands

    def reap(self, lease: float, pause: float, patience: float) -> Found:
        """Return the jobs of workers whose lease has lapsed, and the queued jobs that have expired.

        Only one reaper finds them, until a lease's time has passed without :meth:`reaped` or :meth:`expired`.

        Args:
            lease: Seconds that a lease lasts.
            pause: Seconds between two looks of one reaper.
            patience: Seconds after its expiry in which a worker may still tell of a job's expiry itself.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        keys = self._lease_keys("alive", "reaper", "expiring", "expiring-jobs", "stalling", "stalling-jobs")
        lost, expired, stalled = self._reap(keys=keys, args=[lease, pause, patience, self._lease_keys("held:")[0]])
        return Found(
            lost={
                worker.decode(errors="replace"): _readable(jobs, Job)
                for worker, jobs in zip(lost[::2], lost[1::2], strict=True)
            },
            expired=_readable(expired[1::2], Job),
            stalled=_readable(stalled, ProgressUpdate),
        )

    def reaped(self, worker: str) -> None:
        """Forget a worker: it ended well, or its jobs have been declared lost."""
        alive, held = self._lease_keys("alive", f"held:{worker}")
        self._redis.zrem(alive, worker)
        self._redis.delete(held)

    def expired(self, job_ids: list[str]) -> None:
        """Forget expiries that have been told."""
        expiring, jobs = self._lease_keys("expiring", "expiring-jobs")
        if job_ids:
            self._redis.zrem(expiring, *job_ids)
            self._redis.hdel(jobs, *job_ids)

    # -- what is taken back -------------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> None:
        """Let it be known that a job is to end.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        self._redis.set(self._cancel_key(job_id), 1, ex=CANCELLED_TTL)

    def cancelled(self, job_ids: list[str]) -> list[str]:
        """Return those of some jobs that are to end.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        found: Any = self._redis.mget([self._cancel_key(job_id) for job_id in job_ids])
        return [job_id for job_id, flag in zip(job_ids, found, strict=True) if flag is not None]

    def _cancel_key(self, job_id: str) -> str:
        return f"{self._prefix}cancelled:{quote(job_id, safe='', errors='replace')}"

    def revoke(self, user: str, project_id: str, at: float) -> None:
        """Remember that tokens that a user was given before a time open a project no more.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        [revoked] = self._lease_keys("revoked")
        self._redis.hset(revoked, msgspec.json.encode([user, project_id]), repr(at))
        self._redis.expire(revoked, REVOKED_TTL)

    def revocations(self) -> dict[tuple[str, str], float]:
        """Return when each user's access to a project was taken back.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        [revoked] = self._lease_keys("revoked")
        found: Any = self._redis.hgetall(revoked)
        told = {}
        for pair, at in found.items():
            with contextlib.suppress(*_UNREADABLE):
                told[msgspec.json.decode(pair, type=tuple[str, str])] = float(at)
        return told

    def _lease_keys(self, *names: str) -> list[str]:
        return [f"{self._prefix}{{leases}}:{name}" for name in names]

    def ping(self) -> bool:
        """Tell whether Redis answers."""
        try:
            return bool(self._redis.ping())
        except OUTAGES:
            return False

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()


def _new_epoch() -> str:
    return secrets.token_hex(4)


def _by_project(events: list[Outgoing]) -> dict[str, list[tuple[int, Outgoing]]]:
    groups: dict[str, list[tuple[int, Outgoing]]] = {}
    for position, event in enumerate(events):
        groups.setdefault(event.project_id, []).append((position, event))
    return groups


class _Family(msgspec.Struct):
    """What a status event tells of where its job comes from; a filter may have left little of it."""

    task: Any = None
    root_id: Any = None
    parent_id: Any = None
    group_id: Any = None


_family = msgspec.json.Decoder(_Family)


def _job_json(event: Outgoing) -> bytes:
    """Return which job a status event is of."""
    told = _family.decode(event.payload) if event.payload.startswith(b"{") else _Family()
    job = Job(
        job_id=legible(event.job_id or ""),
        project_id=event.project_id,
        attempt=event.attempt,
        **{name: getattr(told, name) for name in ("task", "root_id", "parent_id", "group_id")},
    )
    return msgspec.json.encode(job)


def _progress_json(event: Outgoing) -> bytes:
    """Return how far a job is, as far as a status or progress event tells it."""
    told = msgspec.json.decode(event.payload)
    names = ("message", "current", "total", "task")
    fields: dict[str, Any] = {name: told.get(name) for name in names if isinstance(told, dict)}
    return msgspec.json.encode(
        ProgressUpdate(
            job_id=event.job_id or "",
            project_id=event.project_id,
            progress=event.standing.percent,
            timestamp="",
            attempt=event.attempt,
            **{"message": None, **fields},
        )
    )


def _rank(event: Outgoing) -> str:
    if event.progress:
        return "p"
    if event.rank is None:
        return "c"
    return event.standing.gate or str(event.rank)


#: What reading raises of something that another writer, or a broken one, has left here.
_UNREADABLE = (LookupError, TypeError, ValueError, RecursionError, msgspec.MsgspecError)

_object = msgspec.json.Decoder(dict[str, Any])


def _job(entry: bytes) -> dict[str, Any] | None:
    """Return a job's entry as the snapshot tells it: its last status, with how far it is; None if it is no entry."""
    try:
        _, status, progress = entry.split(b"\n", 2)
        told, done = _object.decode(status or b"{}"), _object.decode(progress or b"{}")
    except _UNREADABLE:
        return None
    if not told:
        told = {
            **done,
            "event": "status_change",
            "status": "running",
            "state": "STARTED",
            "result": None,
            "error": None,
        }
    if not isinstance(told.get("job_id"), str):
        return None
    told.setdefault("status", None)  # a filter may have taken it out, and all readers ask for it
    reached = {name: done.get(name) for name in ("progress", "message", "current", "total")}
    return {**told, **reached, "stalled": told.get("status") == "running" and bool(done.get("stalled"))}


def _workflows(project_id: str, flows: list[bytes]) -> list[dict[str, Any]]:
    told = []
    for root_id, entry in zip(flows[::2], flows[1::2], strict=True):
        try:
            total, queued, running, done, failed, _, progress = map(float, entry.split())
            counts = {"total": total, "queued": queued, "running": running, "done": done, "failed": failed}
            numbers = {name: int(number) for name, number in (counts | {"progress": progress}).items()}
        except (ValueError, OverflowError):  # another writer's
            continue
        if total > 1:
            told.append({"root_id": root_id.decode(errors="replace"), "project_id": project_id, **numbers})
    return told


def _about(event: Outgoing, tag: str) -> list[Any]:
    """Return what the script has to know of an event beside its payload."""
    about = [event.event, event.job_id or "", event.attempt, _rank(event), event.standing.percent]
    about += [_word(event.standing.worker), event.standing.kind, event.standing.root_id or "-", tag]
    if event.standing.root_id and event.standing.root_id.split() != [event.standing.root_id]:
        about[7] = "-"  # the entry of a job has words in its first line, and this is several
    return about


def _packed(told: list[list[Any]]) -> bytes:
    try:
        return msgspec.msgpack.encode(told)
    except UnicodeEncodeError:
        words = [[legible(part) if isinstance(part, str) else part for part in about] for about in told]
        return msgspec.msgpack.encode(words)


@functools.lru_cache(maxsize=1000)
def _word(worker: str) -> str:
    """Return a worker's name as one word, "-" for none."""
    return quote(worker, errors="replace") or "-"


def _readable(entries: list[bytes], kind: type[T]) -> list[T]:
    """Return what entries tell; what is none of ours is left out."""
    told = []
    for entry in entries:
        with contextlib.suppress(*_UNREADABLE):
            told.append(msgspec.json.decode(entry, type=kind))
    return told


def _all_missed(entries: list[Any], epoch: str) -> list[dict[str, Any]] | None:
    """Return what was missed; None if some of it cannot be read, so that it is not all."""
    try:
        return [_missed(entry, epoch) for entry in entries]
    except _UNREADABLE:
        return None


def _missed(entry: Any, epoch: str) -> dict[str, Any]:
    offset = int(entry[0].split(b"-")[0])
    fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
    name = fields[b"e"].decode()
    plain = name in (STATUS_EVENT, PROGRESS_EVENT, WORKFLOW_EVENT)
    mark = {"epoch": epoch, "offset": offset}
    told = stamp(Outgoing("", name, fields[b"p"], rank=0 if plain else None), mark)
    missed = {"event": name, "data": msgspec.json.decode(told.payload)}
    return missed if told.mark is None else {**mark, **missed}
