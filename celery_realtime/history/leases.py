"""Record which jobs each incarnation of a worker runs, and find those whose worker has died.

Beside leases, the same reaper finds queued jobs that have expired, and running jobs that have stalled. All times are
those of the Redis server, so that the clocks of the hosts do not matter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from celery_realtime.encoding import encode, legible
from celery_realtime.events import (
    GIVEN_BACK_GATE,
    HANDED_ON_GATE,
    TERMINAL_RANK,
    Details,
    Job,
    Outgoing,
    ProgressUpdate,
    StageState,
    Step,
    job_name,
    name_of,
)
from celery_realtime.history.keys import Keys
from celery_realtime.history.lua import Command, Runner, Script, call, command
from celery_realtime.history.snapshot import UNREADABLE

T = TypeVar("T")

#: Seconds that the jobs of an incarnation are remembered if it never renews its lease again and no reaper looks.
HELD_TTL = 86400

_RUNNING_RANK = 1

_HOLD, _RELEASE, _REAP, _AWAIT_STALL = map(Script, ("hold", "release", "reap", "await_stall"))
_NOTE_RUNNING = Script("note_running")
_RENEW = Script("renew")
_REPORTED = Script("reported")


class HeldMessage(msgspec.Struct, frozen=True):
    """The message of a job that a worker has received, in a broker that can be asked whether it still has it.

    Attributes:
        broker: The broker's URL without its password.
        exchange: Where it was published.
        routing_key: With which routing key.
        tag: What the broker knows it by.
    """

    broker: str
    exchange: str
    routing_key: str
    tag: str


class HeldJob(Job, frozen=True, kw_only=True, omit_defaults=True):
    """A job that an incarnation has taken from its queue.

    Attributes:
        running: Whether it has started; if not, it waits in the worker.
        left: Whether it has ended, and only that has not been sent yet.
        since: When the worker received it, or its pool has accepted it, in seconds since the epoch by that host's
            clock; None if the process that runs it has described it, see ``execution``.
        behind: Jobs that its success leads to.
        message: Its message, of a job that waits in the worker.
    """

    running: bool = False
    left: bool = False
    since: float | None = None
    behind: tuple[Step, ...] = ()
    message: HeldMessage | None = None


#: Returns the jobs that the success of the job of an event leads to, as far as this process runs it.
StepsBehind = Callable[[Outgoing], tuple[Step, ...]]


def nothing_behind(_event: Outgoing) -> tuple[Step, ...]:
    """Return that nothing is known to be behind a job."""
    return ()


class StalledJob(msgspec.Struct, frozen=True):
    """A job that is to be reported as stalled.

    Attributes:
        job: The job, as far as the report needs it.
        progress: Its latest progress.
    """

    job: Job
    progress: ProgressUpdate


class ExpiredJob(Job, frozen=True, kw_only=True):
    """A queued job whose time to be started is over.

    Attributes:
        reason: Celery's word for it: ``expired``, or ``revoked`` of a job that was cancelled and that no worker has.
    """

    reason: str = "expired"


class Lapsed(msgspec.Struct, frozen=True):
    """What a reaper has found.

    Attributes:
        lost: By incarnation whose lease has lapsed, the jobs that it held.
        expired: Jobs whose time to be started is over, whatever has become of them, by what they are noted under; None
            of what cannot be read.
        stalled: Jobs that have reported nothing for as long as they had declared.
    """

    lost: dict[str, list[HeldJob]]
    expired: dict[str, ExpiredJob | None]
    stalled: list[StalledJob]


class Leases:
    """The leases of all workers of a channel.

    All is noted by project and id: jobs of other projects may have the same id.

    A lease belongs to an incarnation, one life of a worker's process: a worker that was killed and started again under
    its name does not renew the lease of the one before.

    Args:
        keys: Of the channel.
        runner: Of its Redis.
    """

    def __init__(self, keys: Keys, runner: Runner) -> None:
        self._keys = keys
        self._runner = runner

    def hold(self, incarnation: str, jobs: Iterable[HeldJob], lease: float) -> bool:
        """Renew the lease of an incarnation.

        Args:
            incarnation: The incarnation.
            jobs: All jobs that its main process has taken from the queue and not finished.
            lease: Seconds until the lease lapses; its jobs are remembered for longer, for the reaper.

        Returns:
            Whether the lease was still there. If not, it is new, or its jobs may have been declared lost, or be so yet.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        arguments = [incarnation, int(max(lease * 100, HELD_TTL)), *_described(jobs)]
        return bool(self._runner.run(call(_HOLD, [*self._keys_of(incarnation), self._lapsed], arguments)))

    def held(self) -> set[tuple[str | None, str]]:
        """Return the jobs that workers have taken from their queues and not finished, and those behind.

        Returns:
            The project and the id of each.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        [alive] = self._keys.leases("alive")
        incarnations = [name.decode(errors="replace") for name in self._runner.run(command("ZRANGE", alive, 0, -1))]
        commands = [command("HVALS", self._keys_of(incarnation)[1]) for incarnation in incarnations]
        held: set[tuple[str | None, str]] = set()
        for reply in self._runner.run_all(commands):
            if isinstance(reply, Exception):
                raise reply
            for job in _decode_all(reply, HeldJob):
                held.update((one.project_id, one.job_id) for one in (job, *job.behind))
        return held

    def note(self, incarnation: str, jobs: Iterable[HeldJob]) -> None:
        """Note jobs that an incarnation has taken from its queue since it renewed its lease.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        held = self._keys_of(incarnation)[1]
        self._runner.run_all([command("HSET", held, *_described(jobs)), command("EXPIRE", held, HELD_TTL)])

    def renewal(self, incarnation: str) -> tuple[str, list[str], list[Any]]:
        """Return what another process runs to renew a lease that is there: a Lua script, its keys and its arguments."""
        return _RENEW.source, self._keys_of(incarnation), [legible(incarnation), HELD_TTL]

    def release(self, incarnation: str) -> bool:
        """Give up the lease of an incarnation that ends, unless a job of it has no reported end: then it lapses.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return bool(self._runner.run(call(_RELEASE, self._keys_of(incarnation), [incarnation])))

    def reap(self, lease: float, pause: float, expiry_grace: float) -> Lapsed:
        """Return the jobs of incarnations whose lease has lapsed, queued jobs that have expired, and stalled jobs.

        No other reaper finds them, until the time of a lease has passed without :meth:`reaped` or :meth:`expired`.

        Args:
            lease: Seconds that a lease lasts.
            pause: Seconds between two looks of one reaper.
            expiry_grace: Seconds after its expiry in which a worker may still report a job's expiry itself.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        names = ("alive", "reaper", "expiring", "expiring-jobs", "stalling", "stalling-jobs", "noted")
        keys = [*self._keys.leases(*names), self._lapsed]
        arguments = [lease, pause, expiry_grace, *self._keys.leases("held:", "running:")]
        lost, expired, stalled = self._runner.run(call(_REAP, keys, arguments))
        return Lapsed(
            lost={
                incarnation.decode(errors="replace"): _one_of_each(_decode_all(jobs, HeldJob))
                for incarnation, jobs in zip(lost[::2], lost[1::2], strict=True)
            },
            expired={
                name.decode(errors="replace"): next(iter(_decode_all([job], ExpiredJob)), None)
                for name, job in zip(expired[::2], expired[1::2], strict=True)
            },
            stalled=_decode_all(stalled, StalledJob),
        )

    def reported(self, incarnation: str) -> None:
        """Note that what :meth:`reap` has found of an incarnation has been reported, or is not going to be.

        Should the incarnation live after all, it says once more from then on which jobs it runs.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        self._runner.run(call(_REPORTED, [self._lapsed], [incarnation]))

    def reaped(self, incarnation: str) -> None:
        """Forget an incarnation whose jobs have been declared lost.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        alive, held, running, noted = self._keys_of(incarnation)
        forgotten = [command("ZREM", key, incarnation) for key in (alive, noted)]
        forgotten += [command("DEL", held, running), command("HDEL", self._lapsed, incarnation)]
        self._runner.run_all(forgotten)

    def expired(self, names: Sequence[str]) -> None:
        """Forget expiries that have been reported.

        Args:
            names: What they are noted under, of :meth:`reap`.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        expiring, jobs = self._keys.leases("expiring", "expiring-jobs")
        if names:
            self._runner.run_all([command("ZREM", expiring, *names), command("HDEL", jobs, *names)])

    def withdraw(self, job: Job, after: float) -> None:
        """Have a cancelled job found as expired if it is still queued after some time, which no worker has then.

        Args:
            job: The job.
            after: Seconds from now on.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        expiring, jobs = self._keys.leases("expiring", "expiring-jobs")
        name = _name(job)
        seconds, microseconds = self._runner.run(command("TIME", at=expiring))
        at = int(seconds) + int(microseconds) / 1e6 + after
        fields = {field: getattr(job, field) for field in Job.__struct_fields__}
        description = encode(ExpiredJob(**fields, reason="revoked"))
        self._runner.run_all([command("ZADD", expiring, repr(at), name), command("HSET", jobs, name, description)])

    # -- what events say of jobs --------------------------------------------------------------------------------

    def commands(
        self, events: list[Outgoing], behind: StepsBehind = nothing_behind
    ) -> tuple[list[Command], list[Command]]:
        """Return commands that belong to events: some to be run before the events are stored, and some after that.

        First which jobs start is noted, as their worker may be killed before it renews its lease; and then which jobs
        run no more, when queued ones expire, and when running ones stall.

        Args:
            events: What is going to be appended.
            behind: What waits for those that start.
        """
        before: list[Command] = []
        after: list[Command] = []
        for incarnation, changes in _running_changes(events).items():
            starts = [(field, event) for field, event in changes.items() if event is not None]
            started = [part for field, event in starts for part in (field, _describe_job(event, behind(event)))]
            ended = [field for field, event in changes.items() if event is None]
            keys = self._keys_of(incarnation)
            if started:
                before.append(call(_NOTE_RUNNING, keys, [legible(incarnation), HELD_TTL, *started]))
            if ended:
                after.append(command("HDEL", keys[2], *ended))
        return before, [*after, *self._note_expiries(events), *self._note_stalls(events), *self._forget_stalls(events)]

    def _note_expiries(self, events: list[Outgoing]) -> list[Command]:
        expiring, jobs = self._keys.leases("expiring", "expiring-jobs")
        times: list[Any] = []
        descriptions: list[Any] = []
        for event in events:
            if event.deadlines.expires_at is not None:
                name = _name_in(event)
                times += [repr(event.deadlines.expires_at), name]
                descriptions += [name, _describe_job(event)]
        return [command("ZADD", expiring, *times), command("HSET", jobs, *descriptions)] if times else []

    def _note_stalls(self, events: list[Outgoing]) -> list[Command]:
        arguments: list[Any] = []
        for event in events:
            if event.deadlines.stall_after is not None:
                arguments += [_name_in(event), event.deadlines.stall_after, _describe_progress(event)]
        return [call(_AWAIT_STALL, self._keys.leases("stalling", "stalling-jobs"), arguments)] if arguments else []

    def _forget_stalls(self, events: list[Outgoing]) -> list[Command]:
        ended = [
            _name_in(event)
            for event in events
            if event.job_id and event.rank == TERMINAL_RANK and event.deadlines.may_stall
        ]
        if not ended:
            return []
        stalling, jobs = self._keys.leases("stalling", "stalling-jobs")
        return [command("ZREM", stalling, *ended), command("HDEL", jobs, *ended)]

    @property
    def _lapsed(self) -> str:
        [lapsed] = self._keys.leases("lapsed")
        return lapsed

    def _keys_of(self, incarnation: str) -> list[str]:
        name = legible(incarnation)
        return self._keys.leases("alive", f"held:{name}", f"running:{name}", "noted")


def _running_changes(events: list[Outgoing]) -> dict[str, dict[str, Outgoing | None]]:
    """Return, by incarnation and field, the starts of jobs that run after some events, and None where they run no more.

    Of a short job the same batch has the start and the end: nothing is to be noted of it.
    """
    changes: dict[str, dict[str, Outgoing | None]] = {}
    for event in events:
        if event.job_id and event.rank is not None and event.standing.incarnation:
            of_incarnation = changes.setdefault(event.standing.incarnation, {})
            if event.rank == TERMINAL_RANK or event.standing.gate in (GIVEN_BACK_GATE, HANDED_ON_GATE):
                of_incarnation[_field(event, event.attempt)] = None
            elif event.rank == _RUNNING_RANK:
                of_incarnation[_field(event, event.attempt)] = event
            elif event.attempt:  # a retry: the attempt before it is over, and its message may be back already
                of_incarnation[_field(event, event.attempt - 1)] = None
    return changes


def _field(event: Outgoing, attempt: int) -> str:
    return f"{attempt}:{event.standing.run}:{_name_in(event)}"


def _name_in(event: Outgoing) -> str:
    """Return what the job of an event is noted under."""
    return legible(job_name(event.job_id or "", event.project_id))


def _name(job: Job) -> str:
    return legible(name_of(job))


def _described(jobs: Iterable[HeldJob]) -> list[Any]:
    """Return fields and values of jobs that an incarnation has taken from its queue."""
    return [part for job in jobs for part in (f"{job.attempt}:{job.run or ''}:{_name(job)}", encode(job))]


class _Origin(msgspec.Struct):
    """The members of a status event that say where its job comes from; a filter may have removed some."""

    task: Any = None
    root_id: Any = None
    parent_id: Any = None
    group_id: Any = None


class _Stages(msgspec.Struct):
    """The members of a progress event that say how far the stages of its job are."""

    stage: str | UnsetType | None = UNSET
    stages: tuple[StageState, ...] | UnsetType = UNSET


_stages = msgspec.json.Decoder(_Stages)
_origin = msgspec.json.Decoder(_Origin)
_details = msgspec.json.Decoder(Details)


def _details_in(payload: bytes) -> Details | None:
    """Return the details in a status event; None where there are none, or a filter has made something else of them."""
    with contextlib.suppress(*UNREADABLE):
        details = _details.decode(payload)
        return None if details == _NO_DETAILS else details
    return None


_NO_DETAILS = Details()


def _describe_job(event: Outgoing, behind: tuple[Step, ...] = ()) -> bytes:
    """Return the JSON of the job that a status event is about."""
    origin = _origin.decode(event.payload) if event.payload.startswith(b"{") else _Origin()
    return encode(
        HeldJob(
            job_id=legible(event.job_id or ""),
            project_id=event.project_id,
            attempt=event.attempt,
            worker=event.standing.worker or None,
            running=event.rank == _RUNNING_RANK,
            run=event.standing.run or None,
            execution=event.standing.execution,
            behind=behind,
            details=_details_in(event.payload),
            **msgspec.structs.asdict(origin),
        )
    )


def _describe_progress(event: Outgoing) -> bytes:
    """Return the JSON of a stalled job, with its progress as far as a status or progress event has it."""
    data = msgspec.json.decode(event.payload)
    names = ("message", "current", "total", "task")
    fields: dict[str, Any] = {name: data.get(name) for name in names if isinstance(data, dict)}
    with contextlib.suppress(*UNREADABLE):  # a filter may have made something else of them
        stages = _stages.decode(event.payload)
        fields.update(stage=stages.stage, stages=stages.stages)
    job = Job(
        job_id=event.job_id or "",
        project_id=event.project_id,
        attempt=event.attempt,
        run=event.standing.run or None,
        execution=event.standing.execution,
    )
    progress = ProgressUpdate(
        job_id=job.job_id,
        project_id=event.project_id,
        progress=event.standing.percent,
        timestamp="",
        attempt=job.attempt,
        **{"message": None, **fields},
    )
    return encode(StalledJob(job, progress))


def _one_of_each(jobs: list[HeldJob]) -> list[HeldJob]:
    """Return the first description of each attempt of a job: that of the process that runs it comes first.

    What is behind a job, its worker's main process knows, and the process that runs it if it has steps at all. The mark
    of a run is of one project.
    """
    described: dict[tuple[str, str | None, int], HeldJob] = {}
    for job in jobs:
        key = (job.job_id if job.run else _name(job), job.run, job.attempt)
        first = described.setdefault(key, job)
        if job.behind and not first.behind:
            described[key] = msgspec.structs.replace(first, behind=job.behind)
    return list(described.values())


def _decode_all(entries: list[bytes], kind: type[T]) -> list[T]:
    """Return the structs of entries; an entry of another writer is left out."""
    decoded = []
    for entry in entries:
        with contextlib.suppress(*UNREADABLE):
            decoded.append(msgspec.json.decode(entry, type=kind))
    return decoded
