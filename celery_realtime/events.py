"""Define what travels: events as frozen structs, and what their statuses mean."""

from __future__ import annotations

import itertools
from datetime import datetime, timezone
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import replace

from celery_realtime.clocks import shown_time_ns
from celery_realtime.encoding import add_fields, encode, encode_legibly, encode_lenient, encode_strict, legible
from celery_realtime.stream_parts import OPEN, STREAM_EVENT, StreamChunk, StreamPart, content_of

STATUS_EVENT = "agent_status"
PROGRESS_EVENT = "agent_progress"
WORKFLOW_EVENT = "agent_workflow"
METADATA_EVENT = "agent_metadata"
BATCH_EVENT = "agent_batch"

#: Events about the state of a job or a workflow, whose data say themselves whose they are.
STATE_EVENTS = (STATUS_EVENT, PROGRESS_EVENT, WORKFLOW_EVENT, METADATA_EVENT)

#: Those that are about one job.
JOB_EVENTS = (STATUS_EVENT, PROGRESS_EVENT, METADATA_EVENT)

#: The remote control command with which a web server asks workers to cancel a job.
CANCEL_COMMAND = "realtime_cancel"

#: A server has missed more than it can pass on: its clients have to subscribe again.
RESYNC_EVENT = "agent_resync"

#: Replaces an event that an audience may not see, so that the offsets have no hole.
HIDDEN_EVENT = "agent_hidden"

#: What server-sent events begin with (the state of the jobs, or that nothing was missed), go on with (jobs that the
#: first had no room for), and end with. ``error``, as sockets have it, browsers raise themselves.
SNAPSHOT_EVENT = "agent_snapshot"
RESUMED_EVENT = "agent_resumed"
JOBS_EVENT = "agent_jobs"
ERROR_EVENT = "agent_error"

#: A client's token expires soon.
EXPIRING_EVENT = "token_expiring"
MAX_EVENT_NAME = 128

#: Characters of a job's id, in what others may have written.
MAX_JOB_ID = 255

#: The member of a custom event's data that names its job and project.
MARK = "_realtime"

#: Names that a custom event cannot have: socket.io-client raises them itself, or they are ours.
RESERVED_EVENTS = frozenset(
    [
        *("connect", "connect_error", "disconnect", "disconnecting", "error", "newListener", "removeListener"),
        *(*STATE_EVENTS, BATCH_EVENT, RESYNC_EVENT, HIDDEN_EVENT, EXPIRING_EVENT),
        STREAM_EVENT,
        *(SNAPSHOT_EVENT, RESUMED_EVENT, JOBS_EVENT, ERROR_EVENT),
    ]
)

#: The member of the first event of a job's newer run: who has not heard how the run before it ended knows by it that
#: what that had reported is over.
NEW_RUN = "new_run"

#: Members that no filter takes from an audience: an event's job, project and position.
IDENTITY = (
    *("event", "job_id", "project_id", "root_id", "status", "state", "timestamp", "attempt"),
    *("epoch", "offset", NEW_RUN, "replayed"),
)

PROGRESS_FIELDS = ("progress", "message", "current", "total")

#: What progress of a job with stages has beside these.
STAGE_FIELDS = ("stage", "stages")

#: The status that each Celery state is shown as.
STATUS_OF_STATE = {
    "PENDING": "queued",
    "RETRY": "queued",
    "STARTED": "running",
    "SUCCESS": "success",
    "IGNORED": "success",
    "FAILURE": "error",
    "REVOKED": "error",
    "REJECTED": "error",
    "LOST": "error",
}

#: Within one attempt a job only climbs: a report of a lower or equal rank comes too late.
RANK_OF_STATUS = {"queued": 0, "running": 1, "success": 2, "error": 2}
TERMINAL_RANK = 2

#: The states of ends that nobody may have seen, so that what the job does later takes them back.
SOFT_STATES = ("LOST", "REVOKED")

#: The ``gate`` of what is no event, see :func:`workflow_look`.
LOOK_GATE = "w"

#: The ``gate`` of a job whose message went back, see :func:`outgoing_given_back`.
GIVEN_BACK_GATE = "B"

#: The ``gate`` of a job whose message nobody will get: it was cancelled, or the broker has lost it.
UNDELIVERED_GATE = "N"

#: The ``gate`` of the end of a job whose process was killed, see :class:`Ending`.
DIED_GATE = "D"

#: The ``gate`` of a job that goes on in a message that it has published, see :func:`outgoing_handed_on`.
HANDED_ON_GATE = "H"

#: The ``gate`` of progress of a job with stages: it goes back where one begins that was not known before.
STAGED_GATE = "g"

#: The ``gate`` of a change of a job's metadata, and of one that comes from a job below it.
METADATA_GATE, METADATA_ABOVE_GATE = "m", "M"

#: What the error of a step that will not run begins with, and its ``gate``.
NOT_RUN = "not run: "
UNREACHED_GATE = "U"

# What a member of an event is, beside its type, for the description of the wire (web/messages.py). Nothing else looks
# at it: an event is not checked when it is encoded, and one that a filter has changed may have anything.

Status = Annotated[str, Meta(extra_json_schema={"enum": list(RANK_OF_STATUS)})]
State = Annotated[str, Meta(extra_json_schema={"enum": list(STATUS_OF_STATE)})]
StageStatus = Annotated[str, Meta(extra_json_schema={"enum": ["pending", "running", "done", "failed"]})]

#: UTC, ISO 8601, milliseconds, ``Z``: see :func:`now`.
Time = Annotated[
    str,
    Meta(
        extra_json_schema={
            "format": "date-time",
            "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
        }
    ),
]
#: There only where it is true.
Flag = Annotated[bool, Meta(extra_json_schema={"const": True})]
Percent = Annotated[int | float, Meta(extra_json_schema={"minimum": 0, "maximum": 100})]
Count = Annotated[int, Meta(extra_json_schema={"minimum": 0})]
Seconds = Annotated[int | float, Meta(extra_json_schema={"minimum": 0})]

#: What a workflow counts a job as.
KIND_OF_STATUS = {"queued": "queued", "running": "running", "success": "done", "error": "failed"}


#: Greater than the mark of each run, and of each that was published in the same millisecond.
LATEST_RUN = "~"

#: Seconds by which the clocks of hosts may differ.
CLOCK_SKEW = 5.0


# None of these structs can lead back to itself, so the garbage collector need not look at them (gc=False): a process
# that sends much has thousands of them at a time.


class Execution(msgspec.Struct, frozen=True, gc=False):
    """One start of a job's task. A message that is delivered again starts it again, in the same attempt.

    Attributes:
        id: A random word.
        started: When it began, in seconds since the epoch, by the clock of the host that runs it.
        redelivered: Whether the broker says that it has delivered the message before.
        clock: When it began, in microseconds of the host's clock that never goes back, which all processes of a
            worker share; None where that is not known.
    """

    id: str
    started: float
    redelivered: bool = False
    clock: int | None = None


class Details(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What Celery knows of a job beside its state. What it does not know is unset, and travels nowhere.

    Attributes:
        label: What a person calls the job.
        queue: The queue that it was published to.
        priority: Its message's priority; absent if that is 0.
        eta: When it may start, or its next attempt may: UTC, ISO 8601, milliseconds, ``Z``, as all times.
        expires_at: When it expires if it has not started by then.
        max_retries: How often it may be retried; absent if there is no limit.
        soft_time_limit: Seconds after which its task is told to end.
        time_limit: Seconds after which its process is killed.
        queued_at: When it was published; a retry keeps it.
        rerun_of: The job that it was made from, which somebody has had run again.
    """

    label: str | UnsetType = UNSET
    queue: str | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    eta: Time | UnsetType = UNSET
    expires_at: Time | UnsetType = UNSET
    max_retries: int | UnsetType = UNSET
    soft_time_limit: Seconds | UnsetType = UNSET
    time_limit: Seconds | UnsetType = UNSET
    queued_at: Time | UnsetType = UNSET
    rerun_of: str | UnsetType = UNSET


DETAILS = Details.__struct_fields__

_NO_DETAILS = Details()


class Job(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Everything about one task invocation that its events repeat.

    Attributes:
        job_id: The Celery task id.
        project_id: The project whose subscribers see it; None reaches nobody.
        attempt: 0 at first, one more for each retry (Celery's ``request.retries``).
        stall_after: Seconds without an update after which a running job counts as stalled; never when None.
        run: The mark of its publication, see :mod:`celery_realtime.jobs.lineage`; None if its publisher wrote none.
        execution: The start of its task that it is about; None where none is known.
        details: What else Celery knows of it; None for nothing.
    """

    job_id: str
    project_id: str | None = None
    task: str | None = None
    attempt: int = 0
    root_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    worker: str | None = None
    stall_after: float | None = None
    run: str | None = None
    execution: Execution | None = None
    details: Details | None = None


class Step(Job, frozen=True, kw_only=True, omit_defaults=True):
    """A job that runs when another one has succeeded.

    Attributes:
        continues: Whether it is the rest of a job that has replaced itself, and so runs as far as anybody knows.
    """

    continues: bool = False


class Ending(msgspec.Struct, frozen=True):
    """How a job has ended, or that it is retried.

    Attributes:
        state: Celery's name of it.
        error: One line that says why, or None.
        result: JSON of what it returned.
        truncated: Whether the result is left out, and can be fetched.
        died: Whether it is that of a process that was killed, of which somebody says so who outlives it. If the message
            is delivered again, the next start of the task takes it back.
        earlier: Whether a start before the one that is lost has reached it, and nobody knows more of that one.
    """

    state: str
    error: str | None = None
    result: bytes = b"null"
    truncated: bool = False
    died: bool = False
    earlier: bool = False


class Cancellation(msgspec.Struct, frozen=True):
    """Which runs of a job have been cancelled: those that were published when it was asked for, and no later one.

    Attributes:
        until: The mark of the latest run that it concerns, see :mod:`celery_realtime.jobs.lineage`.
        unmarked: Whether it concerns publications without a mark, of which nobody knows when they were made.
    """

    until: str = LATEST_RUN
    unmarked: bool = True

    @classmethod
    def of(cls, run: str | None) -> Cancellation:
        """Return the cancellation of a run that is known; of None, of a publication without a mark."""
        return cls(until="", unmarked=True) if run is None else cls(until=run, unmarked=False)

    @classmethod
    def of_unknown(cls, clock: float) -> Cancellation:
        """Return the cancellation of whatever has been published up to a time, in seconds since the epoch."""
        return cls(until=f"{int((clock + CLOCK_SKEW) * 1000):013d}{LATEST_RUN}")

    def concerns(self, run: str | None) -> bool:
        """Tell whether it concerns a run, or, with None, a publication without a mark."""
        return self.unmarked if run is None else run <= self.until


def job_name(job_id: str, project_id: str | None) -> str:
    """Return what a job is noted under: nothing keeps an application from using one id in several projects.

    No project's id has a line end in it.
    """
    return job_id if project_id is None else f"{project_id}\n{job_id}"


def name_of(job: Job) -> str:
    """Return what a job is noted under; see :func:`job_name`."""
    return job_name(job.job_id, job.project_id)


class StatusChange(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="event", tag="status_change"):
    """A job's new status, on the wire as ``agent_status``.

    What is unset is left out. The fields from ``label`` to ``rerun_of`` are those of :class:`Details`, which cannot be
    a base: a struct has the fields of its bases first, and these stand in the middle.

    Attributes:
        job_id: Celery's task id.
        project_id: The project.
        status: What people are shown.
        state: Celery's own word for it, and LOST, for which Celery has none.
        timestamp: When it was reported: UTC, ISO 8601, milliseconds, ``Z``.
        result: Of a success, what the task returned, as JSON; else null.
        error: Of an error, one line such as ``ValueError: no luck``; of a retry, the reason; else null.
        task: The task's name.
        attempt: 0 at first; each retry adds 1.
        root_id: The origin of the job's workflow: its first job in this project, or the group that it started with.
        parent_id: The job that published it; null if that is of another project. A retry keeps its parent.
        group_id: Its group, as in Celery.
        worker: The node name of the worker that runs the job, or has given it back; null if its producer reports it.
        truncated: Whether the result is larger than ``max_payload``, and was left out.
        traceback: The text of the traceback, with the setting ``include_traceback``.
        started_at: When its task started, in this attempt.
        ended_at: When it ended, or, if nobody saw that, when somebody noticed.
        runtime: Seconds from its start to its end, by the clock of the process that ran it.
    """

    job_id: str
    project_id: str
    status: Status
    state: State
    timestamp: Time
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None
    task: str | None = None
    attempt: Count = 0
    root_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    worker: str | None = None
    truncated: Flag | UnsetType = UNSET
    traceback: str | UnsetType = UNSET
    label: str | UnsetType = UNSET
    queue: str | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    eta: Time | UnsetType = UNSET
    expires_at: Time | UnsetType = UNSET
    max_retries: int | UnsetType = UNSET
    soft_time_limit: Seconds | UnsetType = UNSET
    time_limit: Seconds | UnsetType = UNSET
    queued_at: Time | UnsetType = UNSET
    rerun_of: str | UnsetType = UNSET
    started_at: Time | UnsetType = UNSET
    ended_at: Time | UnsetType = UNSET
    runtime: Seconds | UnsetType = UNSET


class StageState(msgspec.Struct, frozen=True, gc=False):
    """How far a stage of a job is.

    Attributes:
        name: What it is called.
        weight: Its weight among the stages of the job.
        status: ``pending``, ``running``, ``done`` or ``failed``.
        progress: Percent, 0..100.
    """

    name: str
    weight: int | float
    status: StageStatus
    progress: Percent


class ProgressUpdate(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="event", tag="progress_update"):
    """How far a running job is, on the wire as ``agent_progress``.

    Attributes:
        job_id: Celery's task id.
        project_id: The project.
        progress: Percent, 0..100. Within an attempt it does not decrease, unless a stage has begun that was not known.
        message: What the job does now; null if it does not say.
        timestamp: When it was reported: UTC, ISO 8601, milliseconds, ``Z``.
        current: Units that are done; null if the task has reported percent.
        total: Units in all; null if the task has reported percent.
        task: The task's name.
        attempt: 0 at first; each retry adds 1.
        stalled: Whether the job has been silent for longer than it should.
        stage: Of a job with stages, the name of the one that it is about; null for none of them.
        stages: Of such a job, all that are known, in their order; their weighted mean is the progress.
    """

    job_id: str
    project_id: str
    progress: Percent
    message: str | None
    timestamp: Time
    current: int | float | None = None
    total: int | float | None = None
    task: str | None = None
    attempt: Count = 0
    stalled: Flag | UnsetType = UNSET
    stage: str | UnsetType | None = UNSET
    stages: tuple[StageState, ...] | UnsetType = UNSET


class MetadataUpdate(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="event", tag="metadata_update"):
    """What has changed of a job's metadata, on the wire as ``agent_metadata``.

    Attributes:
        job_id: Celery's task id.
        project_id: The project.
        set: Keys and the values that they have now.
        deleted: Keys that are not there any more.
        timestamp: When it was reported: UTC, ISO 8601, milliseconds, ``Z``.
    """

    job_id: str
    project_id: str
    set: dict[str, msgspec.Raw] = {}
    deleted: list[str] = []
    timestamp: Time


class MetadataChange(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is to be done to a job's metadata, which several processes may change at a time.

    Attributes:
        kind: ``set``, ``increment``, ``append`` or ``delete``.
        key: The key.
        value: JSON of the value, of what is added to it, or of its new item; ``null`` of what is deleted.
        limit: The most bytes of JSON that all of it may have.
    """

    kind: str
    key: str
    value: str
    limit: int


class Standing(msgspec.Struct, frozen=True, gc=False):
    """What the history decides by, beside an event's attempt and rank, and keeps in the job's entry.

    Attributes:
        worker: Of a status, the node name of the worker that it happened in.
        incarnation: Of a status, the incarnation of the worker that reports it, see
            :class:`~celery_realtime.jobs.incarnation.Incarnation`.
        kind: What a workflow counts the job as: queued, running, done or failed.
        root_id: The first job of its workflow.
        gate: What is only inferred, mostly by a reaper: ``L`` for LOST, which ends what runs, and ``S`` for LOST of a
            job that its worker is known to have started, which also ends what is still queued; ``E`` for an expiry,
            which ends only what is queued; ``N`` for a job whose message nobody will get, which also ends what was
            handed on; ``U`` for a step that will not run, which ends only what is unknown; ``s`` for a stall. A later
            run or end reopens what ended so. ``g`` for progress that may go back; ``m`` and ``M`` for
            metadata. ``B`` for a job that is queued again since its message went back to the
            broker, which is news only of the start before. ``D`` for the end of a process that was killed, which only a
            later start takes back. ``w`` and ``H`` are no events, see :func:`is_note`.
        percent: Of progress, how far.
        run: The mark of its job's publication.
        execution: The start of its job's task that it is from.
    """

    worker: str = ""
    kind: str = ""
    root_id: str | None = None
    gate: str = ""
    percent: int | float = 0
    incarnation: str = ""
    run: str = ""
    execution: Execution | None = None


class Deadlines(msgspec.Struct, frozen=True, gc=False):
    """When a job counts as expired or stalled.

    Attributes:
        expires_at: When a queued job expires, in seconds since the epoch.
        stall_after: Seconds after which a running job counts as stalled if it reports nothing more.
        may_stall: Whether it may have been noted before when the job counts as stalled.
    """

    expires_at: float | None = None
    stall_after: float | None = None
    may_stall: bool = True


_NO_DEADLINES = Deadlines()


class Origin(NamedTuple):
    """An event of another process.

    Attributes:
        writer: What the history knows the process as.
        number: The event's number there.
    """

    writer: str
    number: int


class Outgoing(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An encoded event on its way out.

    Attributes:
        project_id: The project whose subscribers see it.
        event: The Socket.IO event name.
        payload: Its JSON.
        job_id: The job that it is about.
        attempt: That job's attempt.
        rank: 0 queued, 1 running, 2 ended; None for progress and custom events.
        progress: True for progress, which a newer update of the same job replaces.
        standing: For the history.
        deadlines: For the reaper.
        mark: Of a custom event whose data are not an object, and so have no member for it: job, project, epoch and
            offset.
        number: Tells it from all other events of the process, for the history; 0 of one that need not be told.
        origin: The event as another process may have stored it already.
        part: Of a stream, which part of it this is; its payload is what is to be stored until it is numbered.
        change: Of metadata, what is to be done; the payload has what comes of it as far as this process knows.
    """

    project_id: str
    event: str
    payload: bytes
    job_id: str | None = None
    attempt: int = 0
    rank: int | None = None
    progress: bool = False
    standing: Standing = Standing()
    deadlines: Deadlines = _NO_DEADLINES
    mark: dict[str, Any] | None = None
    number: int = 0
    origin: Origin | None = None
    part: StreamPart | None = None
    change: MetadataChange | None = None


#: Numbers of events; a child of a fork goes on from those of its parent, which are events of another process.
_numbers = itertools.count(1)

#: The millisecond that was written out last, and its text: many events of a busy process share it.
_millisecond = (0, "")


def now() -> str:
    """Return the time as it stands in events: UTC, ISO 8601, milliseconds, ``Z``."""
    global _millisecond  # noqa: PLW0603 - one of a tuple, so that threads see both halves or neither
    milliseconds = shown_time_ns() // 1_000_000
    latest = _millisecond
    if latest[0] != milliseconds:
        latest = _millisecond = milliseconds, at(milliseconds)
    return latest[1]


#: The second that was written out last, and its text: most events of a busy process share it.
_second = (0, "")


def at(milliseconds: int) -> str:
    """Return a time as :func:`now` does, given in milliseconds since the epoch."""
    global _second  # noqa: PLW0603 - as above
    second, fraction = divmod(milliseconds, 1000)
    latest = _second
    if latest[0] != second:
        latest = _second = second, datetime.fromtimestamp(second, timezone.utc).isoformat()[:19]
    return f"{latest[1]}.{fraction:03d}Z"


def check_event_name(name: object) -> str:
    """Return a custom event's name.

    Raises:
        TypeError: It is not a string.
        ValueError: It is empty, too long, not Unicode text, or a name that Socket.IO or this package uses itself.
    """
    if not isinstance(name, str):
        raise TypeError(f"an event name must be a str, not {type(name).__name__}")
    if not name or len(name) > MAX_EVENT_NAME:
        raise ValueError(f"an event name must have 1 to {MAX_EVENT_NAME} characters, this one has {len(name)}")
    if name in RESERVED_EVENTS:
        raise ValueError(f"the event name {name!r} is reserved; choose another")
    if legible(name) != name:
        raise ValueError(f"an event name must be text that UTF-8 can hold, not {name!r}")
    return str.__str__(name)


def status_change(
    job: Job,
    state: str,
    *,
    result: bytes = b"null",
    error: str | None = None,
    truncated: bool = False,
    traceback: str | None = None,
    timestamp: str | None = None,
    runtime: float | UnsetType = UNSET,
) -> StatusChange:
    """Build the event of a job's new state, which it has come to now unless a ``timestamp`` says when.

    The job must have a project.
    """
    assert job.project_id is not None
    status, when, details = STATUS_OF_STATE[state], timestamp or now(), job.details or _NO_DETAILS
    return StatusChange(
        job_id=job.job_id,
        project_id=job.project_id,
        task=job.task,
        attempt=job.attempt,
        root_id=job.root_id,
        parent_id=job.parent_id,
        group_id=job.group_id,
        worker=job.worker,
        status=status,
        state=state,
        timestamp=when,
        result=msgspec.Raw(result),
        error=error,
        truncated=True if truncated else UNSET,
        traceback=UNSET if traceback is None else traceback,
        started_at=UNSET if status == "queued" else _start_of(job),
        ended_at=when if RANK_OF_STATUS[status] == TERMINAL_RANK else UNSET,
        runtime=runtime,
        label=details.label,
        queue=details.queue,
        priority=details.priority,
        eta=details.eta,
        expires_at=details.expires_at,
        max_retries=details.max_retries,
        soft_time_limit=details.soft_time_limit,
        time_limit=details.time_limit,
        queued_at=details.queued_at,
        rerun_of=details.rerun_of,
    )


def _start_of(job: Job) -> str | UnsetType:
    """Return when a job started; what is only inferred of it has no id."""
    execution = job.execution
    return at(round(execution.started * 1000)) if execution is not None and execution.id else UNSET


def outgoing_status(
    change: StatusChange,
    expires_at: float | None = None,
    stall_after: float | None = None,
    *,
    gate: str = "",
    incarnation: str = "",
    job: Job | None = None,
) -> Outgoing:
    """Encode a status change.

    Args:
        change: The status change.
        expires_at: When the queued job expires, in seconds since the epoch.
        stall_after: Seconds of silence after which the running job counts as stalled.
        gate: What is only inferred, see :class:`Standing`; by default ``L`` of LOST.
        incarnation: The incarnation of the worker that the report is from, or, of a lost job, that ran it.
        job: The job, for its run and execution.
    """
    return Outgoing(
        change.project_id,
        STATUS_EVENT,
        encode(change),
        change.job_id,
        change.attempt,
        RANK_OF_STATUS[change.status],
        standing=Standing(
            worker=change.worker or "",
            kind=KIND_OF_STATUS[change.status],
            root_id=change.root_id,
            gate=gate or ("L" if change.state == "LOST" else ""),
            incarnation=incarnation,
            run="" if job is None else job.run or "",
            execution=None if job is None else job.execution,
        ),
        deadlines=Deadlines(expires_at, stall_after, may_stall=_may_stall(job)),
        number=next(_numbers),
    )


def _may_stall(job: Job | None) -> bool:
    """Return whether a job may have declared when it stalls, which only its execution knows."""
    return job is None or job.execution is None or job.stall_after is not None


def outgoing_end(
    job: Job, ending: Ending, *, incarnation: str, gate: str = "", since: Execution | float | None = None
) -> Outgoing:
    """Encode the end of a job, which must have a project, as somebody else than the job's process reports it.

    Args:
        job: The job.
        ending: Its end.
        incarnation: The incarnation of the worker that ran it.
        gate: As in :func:`outgoing_status`; by default that of the end.
        since: Of a job whose execution is not known: when it began, or, if its message is lost or its process was
            killed, when that was: in seconds since the epoch, or by more than one clock.
    """
    if job.execution is None and since is not None:
        job = replace(job, execution=since if isinstance(since, Execution) else Execution("", since))
    change = status_change(job, ending.state, result=ending.result, error=ending.error, truncated=ending.truncated)
    gate = gate or (DIED_GATE if ending.died else "")
    return outgoing_status(change, incarnation=incarnation, gate=gate, job=job)


def outgoing_unreached(step: Step, before: Job, ending: Ending) -> Outgoing:
    """Encode that a step will not run since a job before it has not succeeded; it must have a project.

    If the job comes back, and the step runs after all, that is taken back.

    Args:
        step: The step.
        before: The job.
        ending: How that has ended, with its error.
    """
    reason = ending.error if step.project_id == before.project_id else "an earlier step did not succeed"
    if step.continues:
        return outgoing_end(step, Ending(ending.state, reason), incarnation="")
    return outgoing_end(step, Ending("FAILURE", f"{NOT_RUN}{reason}"), incarnation="", gate=UNREACHED_GATE)


def outgoing_given_back(job: Job, when: Execution, *, incarnation: str) -> Outgoing:
    """Encode that the message of a job that has started went back to the broker: it is queued again.

    It has that worker and that time, for clients to compare with those of the start where there are no offsets.

    Args:
        job: The job, which must have a project.
        when: When that was; it names no start.
        incarnation: The incarnation of the worker that gave it back.
    """
    change = status_change(job, "PENDING", timestamp=at(round(when.started * 1000)))
    return outgoing_status(change, gate=GIVEN_BACK_GATE, incarnation=incarnation, job=replace(job, execution=when))


def outgoing_handed_on(job: Job, clock: float, *, incarnation: str) -> Outgoing:
    """Return what notes that a job goes on in a message that it has published itself; it is no event.

    Its worker does not have it any more, and does not lose it when it dies.

    Args:
        job: The job, which must have a project.
        clock: When that was, in seconds since the epoch.
        incarnation: The incarnation of the worker that ran it.
    """
    assert job.project_id is not None
    execution = Execution("" if job.execution is None else job.execution.id, clock)
    return Outgoing(
        job.project_id,
        STATUS_EVENT,
        b"",
        job.job_id,
        job.attempt,
        RANK_OF_STATUS["running"],
        standing=Standing(gate=HANDED_ON_GATE, incarnation=incarnation, run=job.run or "", execution=execution),
        number=next(_numbers),
    )


def outgoing_progress(update: ProgressUpdate, stall_after: float | None = None, *, job: Job | None = None) -> Outgoing:
    """Encode a progress update.

    Args:
        update: The progress update.
        stall_after: Seconds of silence after which the running job counts as stalled.
        job: The job, for its run and execution.
    """
    return Outgoing(
        update.project_id,
        PROGRESS_EVENT,
        encode(update),
        update.job_id,
        update.attempt,
        progress=True,
        standing=Standing(
            percent=update.progress,
            gate=_gate_of(update),
            run="" if job is None else job.run or "",
            execution=None if job is None else job.execution,
        ),
        deadlines=_NO_DEADLINES if stall_after is None else Deadlines(stall_after=stall_after),
        number=next(_numbers),
    )


def outgoing_metadata(job: Job, change: MetadataChange, value: str | None, *, is_own: bool) -> Outgoing:
    """Encode a change of a job's metadata.

    Args:
        job: The job, which must have a project.
        change: What is to be done.
        value: JSON of what the key has then, as far as this process knows; None if it is deleted.
        is_own: Whether the job says it itself: of another start than the present one it is too late then.
    """
    assert job.project_id is not None
    set_now = {} if value is None else {change.key: msgspec.Raw(value.encode())}
    deleted = [change.key] if value is None else []
    update = MetadataUpdate(job_id=job.job_id, project_id=job.project_id, set=set_now, deleted=deleted, timestamp=now())
    standing = Standing(gate=METADATA_GATE, run=job.run or "", execution=job.execution)
    return Outgoing(
        job.project_id,
        METADATA_EVENT,
        encode(update),
        job.job_id,
        job.attempt,
        standing=standing if is_own else Standing(gate=METADATA_ABOVE_GATE),
        number=next(_numbers),
        change=change,
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _filtered_change(change: MetadataChange, before: Any, data: dict[str, Any]) -> MetadataChange | None:
    """Return what is to be done to metadata when a filter has seen the event of it; None for nothing.

    What the filter has left as it was, is done. A value that it has changed is set.
    """
    if change.kind == "delete":
        return change if change.key in data["deleted"] else None
    if change.key not in data["set"]:
        return None
    value = encode_lenient(data["set"][change.key])
    if value == encode_lenient(before["set"][change.key]):
        return change
    return replace(change, kind="set", value=value.decode())


def _gate_of(update: ProgressUpdate) -> str:
    if update.stalled is True:
        return "s"
    return "" if update.stages is UNSET else STAGED_GATE


def workflow_look(project_id: str) -> Outgoing:
    """Return what makes the history look which updates of a project's workflows are due; it is no event itself.

    It waits in the outbox as progress does: one for each project, the first to be dropped.
    """
    return Outgoing(
        project_id,
        WORKFLOW_EVENT,
        b"",
        f"\0workflows:{project_id}",
        progress=True,
        standing=Standing(gate=LOOK_GATE),
        number=next(_numbers),
    )


def is_note(outgoing: Outgoing) -> bool:
    """Tell whether it is no event, but what :func:`workflow_look` or :func:`outgoing_handed_on` returns.

    It is for the history alone, and is not published.
    """
    return outgoing.standing.gate in (LOOK_GATE, HANDED_ON_GATE)


def outgoing_custom(name: object, data: object, project_id: str, job_id: str | None, limit: int) -> Outgoing:
    """Check and encode a custom event; see :func:`~celery_realtime.encoding.encode_strict` for what it raises."""
    event = check_event_name(name)
    payload = encode_strict(data, f"the data of event {event!r}", limit)
    return _marked(Outgoing(project_id, event, payload, job_id, number=next(_numbers)))


def outgoing_part(job: Job, part: StreamPart, content: bytes) -> Outgoing:
    """Return a part of a stream of a job, which must have a project; :func:`numbered_chunk` makes an event of it.

    Args:
        job: The job.
        part: Which part it is.
        content: What is to be stored, see :func:`~celery_realtime.stream_parts.content_of`.
    """
    assert job.project_id is not None
    return Outgoing(
        job.project_id,
        STREAM_EVENT,
        content,
        job.job_id,
        job.attempt,
        standing=Standing(run=job.run or "", execution=job.execution),
        number=next(_numbers),
        part=part,
    )


def numbered_chunk(outgoing: Outgoing, position: int, generation: int, state: str = "") -> Outgoing:
    """Return a part of a stream as the event that readers get.

    Args:
        outgoing: The part.
        position: Its place in the stream.
        generation: Which start of the stream it is of.
        state: Of the stream; by default as the part says.
    """
    part = outgoing.part
    assert part is not None
    chunk = StreamChunk(
        job_id=outgoing.job_id or "",
        project_id=outgoing.project_id,
        stream=part.stream,
        kind=part.kind,
        attempt=outgoing.attempt,
        generation=generation,
        position=position,
        chunk=msgspec.Raw(content_of(part.kind, outgoing.payload)),
        state=state or part.state or OPEN,
        task=part.task,
    )
    return replace(outgoing, payload=encode(chunk))


def refilled(outgoing: Outgoing, data: object) -> Outgoing:
    """Return an event with other data; a custom event still names its job and project."""
    if outgoing.change is not None:
        members = data if isinstance(data, dict) else {}
        data = {**members, "set": _dict(members.get("set")), "deleted": _list(members.get("deleted"))}
        change = _filtered_change(outgoing.change, msgspec.json.decode(outgoing.payload), data)
        return replace(outgoing, payload=encode_lenient(data), change=change)
    changed = replace(outgoing, payload=encode_lenient(data))
    return _marked(changed) if _is_custom(outgoing) else changed


def _is_custom(outgoing: Outgoing) -> bool:
    return outgoing.rank is None and not outgoing.progress and outgoing.event != METADATA_EVENT


_packed = msgspec.msgpack.Decoder(Outgoing)


def pack(outgoing: Outgoing, writer: str = "") -> bytes:
    """Return an event as bytes, for :func:`unpack` in another process of the same version.

    Args:
        outgoing: The event.
        writer: What the history knows this process as; empty if the process stores nothing there.

    Raises:
        UnicodeEncodeError: A name or id in it is not text that UTF-8 can hold.
    """
    return msgspec.msgpack.encode(replace(outgoing, origin=Origin(writer, outgoing.number)) if writer else outgoing)


def unpack(packed: bytes) -> Outgoing:
    """Return an event that another process has packed, and may or may not have sent since.

    Raises:
        msgspec.MsgspecError: It is not one.
    """
    return replace(_packed.decode(packed), number=next(_numbers))


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _marked(custom: Outgoing) -> Outgoing:
    """Write job and project into a custom event's data, if that is an object, in place of what it claims itself."""
    payload = custom.payload
    if not payload.startswith(b"{"):
        return custom
    if b'"_realtime"' in payload:
        payload = encode({name: value for name, value in _members.decode(payload).items() if name != MARK})
    mark = encode_legibly(_owner(custom))
    return replace(custom, payload=add_fields(payload, b'"_realtime":' + mark))


def _owner(custom: Outgoing) -> dict[str, Any]:
    return {"job_id": custom.job_id, "project_id": custom.project_id}


def stamp(outgoing: Outgoing, fields: dict[str, Any]) -> Outgoing:
    """Return an event with fields (epoch, offset) added where the contract has them."""
    if not outgoing.payload.startswith(b"{"):
        return replace(outgoing, mark={**_owner(outgoing), **fields})
    if _is_custom(outgoing):
        return replace(outgoing, payload=_stamped_mark(outgoing.payload, fields))
    return replace(outgoing, payload=add_fields(outgoing.payload, encode(fields)[1:-1]))


def _stamped_mark(payload: bytes, fields: dict[str, Any]) -> bytes:
    members: dict[str, Any] = _members.decode(payload)
    mark = msgspec.json.decode(members.pop(MARK, b"{}"))
    return encode({**members, MARK: {**mark, **fields}})
