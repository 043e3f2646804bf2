"""Describe what travels between web servers and their clients: events, requests, and what these are answered with.

A server passes on what it has decoded, so it sends plain dicts, which have the members of these structs: all of those
without a default, and of the others those that are known. ``docs/asyncapi.yaml`` and the types of the browser's modules
are generated from here, and tests hold what travels against them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from celery_realtime import events, stream_parts
from celery_realtime.events import (
    BATCH_EVENT,
    EXPIRING_EVENT,
    HIDDEN_EVENT,
    JOBS_EVENT,
    MARK,
    MAX_EVENT_NAME,
    MAX_JOB_ID,
    METADATA_EVENT,
    PROGRESS_EVENT,
    RESERVED_EVENTS,
    RESUMED_EVENT,
    RESYNC_EVENT,
    SNAPSHOT_EVENT,
    STATUS_EVENT,
    WORKFLOW_EVENT,
    Count,
    Flag,
    Percent,
    Seconds,
    StageState,
    State,
    Status,
    Time,
)
from celery_realtime.job_filters import LONGEST_ALTERNATIVE, MOST_ALTERNATIVES
from celery_realtime.rooms import MAX_PROJECT_ID_LENGTH
from celery_realtime.stream_parts import MAX_STREAM_NAME, STREAM_EVENT, StreamKind, StreamState

#: Beyond any position, and any generation, of a stream.
MOST_POSITION = 2**53

#: Numbers in a report of a client's lag.
MOST_LAGS = 10

#: Jobs that can be read by their ids at once.
MOST_JOBS = 100

ERROR_EVENT = "error"

#: Codes of refusals; rules of the application may make up others.
CODES = ("unauthorized", "forbidden", "bad_request", "too_many_requests", "unavailable")

#: The code of the one error that is no refusal: what waited for the client was too much.
TOO_SLOW_CODE = "too_slow"

RefusalCode = Annotated[
    str,
    Meta(
        description=(
            "`unauthorized`: no token, or none that is good, or it has expired, or the user was disconnected. "
            "`forbidden`: it is not the user's to see or to do, or it does not exist: both look the same. "
            "`bad_request`: the request is malformed, or too large. `too_many_requests`: beyond a limit. "
            "`unavailable`: worth another try later, or not possible on this server. "
            "`too_slow`: the client has read too slowly, and has to connect again."
        ),
        extra_json_schema={"enum": [*CODES, TOO_SLOW_CODE]},
    ),
]

JobId = Annotated[
    str,
    Meta(
        description=f"Celery's task id: 1 to {MAX_JOB_ID} printable characters.",
        extra_json_schema={"minLength": 1, "maxLength": MAX_JOB_ID},
    ),
]
ProjectId = Annotated[str, Meta(description="The project.", extra_json_schema={"minLength": 1})]

#: A client may write an id as the number that it is.
GivenProjectId = Annotated[
    str | int,
    Meta(
        description=f"The project: 1 to {MAX_PROJECT_ID_LENGTH} characters, or a whole number.",
        extra_json_schema={"minLength": 1, "maxLength": MAX_PROJECT_ID_LENGTH},
    ),
]
Epoch = Annotated[
    str, Meta(description="That of the project's history. It changes when that was lost, and offsets begin anew.")
]
Offset = Annotated[
    int,
    Meta(
        description="The place in the project's history: 1, 2, 3, ... without gaps.",
        extra_json_schema={"minimum": 0},
    ),
]
NewRun = Annotated[
    bool,
    Meta(
        description="The first event of a newer run of the job: what was reported of the run before is over.",
        extra_json_schema={"const": True},
    ),
]
Replayed = Annotated[
    bool,
    Meta(
        description="Not news, but what a client is given that has subscribed without an acknowledgement.",
        extra_json_schema={"const": True},
    ),
]
TraceId = Annotated[
    str,
    Meta(
        description="Where traces are recorded, the trace that its report is part of, in hexadecimal.",
        extra_json_schema={"pattern": "^[0-9a-f]{32}$"},
    ),
]
SpanId = Annotated[
    str,
    Meta(
        description="Where traces are recorded, the span that has reported it, in hexadecimal.",
        extra_json_schema={"pattern": "^[0-9a-f]{16}$"},
    ),
]
StreamName = Annotated[
    str,
    Meta(
        description=f"The stream's name: 1 to {MAX_STREAM_NAME} printable characters.",
        extra_json_schema={"minLength": 1, "maxLength": MAX_STREAM_NAME},
    ),
]
EventName = Annotated[
    str,
    Meta(
        extra_json_schema={
            "minLength": 1,
            "maxLength": MAX_EVENT_NAME,
            "not": {"enum": sorted(RESERVED_EVENTS)},
        }
    ),
]
Place = Annotated[int, Meta(extra_json_schema={"minimum": 0})]
Given = Annotated[int, Meta(extra_json_schema={"minimum": 0, "exclusiveMaximum": MOST_POSITION})]
Tail = Annotated[
    int,
    Meta(
        description="How much of a stream is wanted, its newest, in characters or items; all if absent.",
        extra_json_schema={"minimum": 1, "exclusiveMaximum": MOST_POSITION},
    ),
]


# -- events -------------------------------------------------------------------------------------------------------


class StatusChange(events.StatusChange, frozen=True, kw_only=True, tag_field="event", tag="status_change"):
    """A job's new status. Each job ends with exactly one `success` or `error`, which only LOST takes back."""

    trace_id: TraceId | UnsetType = UNSET
    span_id: SpanId | UnsetType = UNSET
    new_run: NewRun | UnsetType = UNSET
    replayed: Replayed | UnsetType = UNSET
    epoch: Epoch | UnsetType = UNSET
    offset: Offset | UnsetType = UNSET


class ProgressUpdate(events.ProgressUpdate, frozen=True, kw_only=True, tag_field="event", tag="progress_update"):
    """How far a running job is."""

    trace_id: TraceId | UnsetType = UNSET
    span_id: SpanId | UnsetType = UNSET
    new_run: NewRun | UnsetType = UNSET
    replayed: Replayed | UnsetType = UNSET
    epoch: Epoch | UnsetType = UNSET
    offset: Offset | UnsetType = UNSET


class MetadataUpdate(events.MetadataUpdate, frozen=True, kw_only=True, tag_field="event", tag="metadata_update"):
    """What has changed of a job's metadata. It may follow the end of the job."""

    replayed: Replayed | UnsetType = UNSET
    epoch: Epoch | UnsetType = UNSET
    offset: Offset | UnsetType = UNSET


class Workflow(Struct, frozen=True, kw_only=True):
    """The jobs with one root: those of a chain, a group or a chord, or a task and those that it has called.

    Attributes:
        root_id: The workflow: its first job in this project, or the group that it started with.
        total: How many jobs it has so far: later steps of a chain count once they are published.
        queued: How many of them wait.
        running: How many of them run.
        done: How many of them have succeeded.
        failed: How many of them have ended otherwise.
        progress: Whole percent: the mean of its jobs, of which one that has ended counts as 100.
    """

    root_id: str
    project_id: ProjectId
    total: Annotated[int, Meta(extra_json_schema={"minimum": 2})]
    queued: Count
    running: Count
    done: Count
    failed: Count
    progress: Annotated[int, Meta(extra_json_schema={"minimum": 0, "maximum": 100})]


class WorkflowUpdate(Workflow, frozen=True, kw_only=True, tag_field="event", tag="workflow_update"):
    """How far a workflow is. It is sent only with a history, and of two jobs or more.

    Attributes:
        timestamp: When it was counted: UTC, ISO 8601, milliseconds, ``Z``. What is replayed has none.
    """

    timestamp: Time | UnsetType = UNSET
    replayed: Replayed | UnsetType = UNSET
    epoch: Epoch | UnsetType = UNSET
    offset: Offset | UnsetType = UNSET


class StreamChunk(stream_parts.StreamChunk, frozen=True, kw_only=True, tag_field="event", tag="stream_chunk"):
    """A piece of what a job says bit by bit. It has no place in the project's history.

    Attributes:
        end: Of a chunk that an ``event_filter`` for audiences has changed, where it ends all the same.
    """

    end: Place | UnsetType = UNSET
    replayed: Replayed | UnsetType = UNSET


class Hidden(Struct, frozen=True):
    """Stands for an event at this place that the client may not see, or that is older than what it was shown."""

    project_id: ProjectId
    epoch: Epoch
    offset: Offset


class Resync(Struct, frozen=True):
    """More was missed than can be passed on, up to this place, or access is gone: subscribe again."""

    project_id: ProjectId
    epoch: Epoch | None
    offset: Offset | None


class TokenExpiring(Struct, frozen=True):
    """The client's token expires soon, and its connection is closed then: see `refresh_token`.

    Attributes:
        expires_in: Seconds until then.
    """

    expires_in: int | float


class RealtimeError(Struct, frozen=True):
    """Why a request or a connection was refused. Rules of the application may use codes of their own.

    Attributes:
        code: What kind of refusal it is.
        message: One sentence, which may be shown to the user.
    """

    code: RefusalCode | str
    message: str


class ErrorEvent(RealtimeError, frozen=True):
    """A refusal as an event: of a request, or of what was granted before.

    Attributes:
        project_id: The project that the client may not see any more; of a refused request it is absent.
    """

    project_id: str | UnsetType = UNSET


class Mark(Struct, frozen=True, kw_only=True):
    """Whose a custom event is, and its place.

    Attributes:
        job_id: The job that has sent it; null if it is from elsewhere.
    """

    job_id: str | None
    project_id: ProjectId
    epoch: Epoch | UnsetType = UNSET
    offset: Offset | UnsetType = UNSET


class CustomObject(Struct, frozen=True):
    """An object that the application has sent, with one more member.

    Attributes:
        realtime: Whose it is, and its place.
    """

    realtime: Mark = msgspec.field(name=MARK)


#: What the application has sent. Without a member for it, what is no object does not say whose it is.
CustomData = CustomObject | list[Any] | str | int | float | bool | None


# What was missed, and what travelled together, with its name.


class StatusItem(Struct, frozen=True, tag_field="event", tag=STATUS_EVENT):
    """An `agent_status`."""

    data: StatusChange


class ProgressItem(Struct, frozen=True, tag_field="event", tag=PROGRESS_EVENT):
    """An `agent_progress`."""

    data: ProgressUpdate


class MetadataItem(Struct, frozen=True, tag_field="event", tag=METADATA_EVENT):
    """An `agent_metadata`."""

    data: MetadataUpdate


class WorkflowItem(Struct, frozen=True, tag_field="event", tag=WORKFLOW_EVENT):
    """An `agent_workflow`."""

    data: WorkflowUpdate


class StreamItem(Struct, frozen=True, tag_field="event", tag=STREAM_EVENT):
    """An `agent_stream`."""

    data: StreamChunk


class HiddenItem(Struct, frozen=True, tag_field="event", tag=HIDDEN_EVENT):
    """An `agent_hidden`."""

    data: Hidden


class ResyncItem(Struct, frozen=True, tag_field="event", tag=RESYNC_EVENT):
    """An `agent_resync`."""

    data: Resync


class CustomItem(Struct, frozen=True, kw_only=True):
    """A custom event. If its data is no object, whose it is and its place stand beside it, as far as they are known.

    Attributes:
        event: Its name.
        job_id: The job that has sent it; null if it is from elsewhere, absent if it was read from the history.
    """

    event: EventName
    data: CustomData
    job_id: str | UnsetType | None = UNSET
    project_id: ProjectId | UnsetType = UNSET
    epoch: Epoch | UnsetType = UNSET
    offset: Offset | UnsetType = UNSET


MissedItem = StatusItem | ProgressItem | MetadataItem | WorkflowItem | HiddenItem | CustomItem
BatchItem = MissedItem | StreamItem | ResyncItem


# -- requests -----------------------------------------------------------------------------------------------------


class Auth(Struct, frozen=True):
    """The ``auth`` object of a connection. A page that is logged in by a cookie may need none.

    Attributes:
        token: What the server's authenticator takes, such as what ``issue_token`` has made. It may be in the query
            string instead: ``?token=``.
    """

    token: Any | UnsetType = UNSET


class Since(Struct, frozen=True):
    """The last position in a project's events that a client has.

    Attributes:
        offset: Up to where it has all events.
    """

    epoch: Epoch
    offset: int


Pattern = Annotated[
    str,
    Meta(
        description="A text that has to be the same, with upper and lower case; `*` stands for any characters.",
        extra_json_schema={"minLength": 1, "maxLength": LONGEST_ALTERNATIVE},
    ),
]
_Some = Meta(extra_json_schema={"maxItems": MOST_ALTERNATIVES})


class Filter(Struct, frozen=True, kw_only=True):
    """Which jobs of a project are wanted: those of which each member that is there has a value that fits.

    It concerns the jobs of answers: events come of all jobs, so that their offsets have no holes.

    Attributes:
        status: The job's status is one of these.
        task: The name of its task is like one of these.
        label: Its label is like one of these; a job without one is not.
    """

    status: Annotated[list[Status], _Some] | UnsetType | None = UNSET
    task: Annotated[list[Pattern], _Some] | UnsetType | None = UNSET
    label: Annotated[list[Pattern], _Some] | UnsetType | None = UNSET


class SubscribeProject(Struct, frozen=True, kw_only=True):
    """Follow a project. Without an acknowledgement its state comes as events that are `replayed`.

    Attributes:
        since: What the client has already: what it has missed is in the answer then, if it is still there.
        batch: Whether live events are to come as `agent_batch`.
        streams: Whether the streams of all jobs are to come, too.
        version: Whether the answer is to say the server's version.
        filter: Which jobs the answer is to have; all if absent.
    """

    project_id: GivenProjectId
    since: Since | UnsetType | None = UNSET
    batch: bool | UnsetType | None = UNSET
    streams: bool | UnsetType | None = UNSET
    version: bool | UnsetType = UNSET
    filter: Filter | UnsetType | None = UNSET


class UnsubscribeProject(Struct, frozen=True):
    """Follow a project no more."""

    project_id: GivenProjectId


class OfJob(Struct, frozen=True, kw_only=True):
    """A request about one job.

    Attributes:
        project_id: Its project: needed without a history, for a job that has had no event yet, and where several
            projects use its id.
    """

    job_id: JobId
    project_id: GivenProjectId | UnsetType | None = UNSET


class SubscribeJob(OfJob, frozen=True, kw_only=True):
    """Follow one job, with its streams.

    Attributes:
        since: What the client has already: what it has missed is in the answer then, if it is still there.
        batch: Whether live events are to come as `agent_batch`.
        streams: Of no effect: they come in any case.
        tail: Of each stream, how many characters or items are to be in the answer, its newest; all that is kept if
            absent.
    """

    since: Since | UnsetType | None = UNSET
    batch: bool | UnsetType | None = UNSET
    streams: bool | UnsetType | None = UNSET
    tail: Tail | UnsetType | None = UNSET


class UnsubscribeJob(Struct, frozen=True, kw_only=True):
    """Follow a job no more.

    Attributes:
        project_id: Its project; absent for all jobs of this id.
    """

    job_id: JobId
    project_id: GivenProjectId | UnsetType | None = UNSET


class ReadJobs(Struct, frozen=True, kw_only=True):
    """Read further jobs of a project that the client is subscribed to, or some jobs by their ids.

    Attributes:
        from_: The `next` of the answer before; not beside `jobs`.
        jobs: The ids of jobs, in place of `from`. Of those that do not exist, or are not open to the user, nothing is
            answered.
        filter: Which jobs the answer is to have; all if absent.
    """

    project_id: GivenProjectId
    from_: str | UnsetType = msgspec.field(default=UNSET, name="from")
    jobs: Annotated[list[JobId], Meta(extra_json_schema={"minItems": 1, "maxItems": MOST_JOBS})] | UnsetType = UNSET
    filter: Filter | UnsetType | None = UNSET


class ReadStream(OfJob, frozen=True, kw_only=True):
    """Read what a job has said in a stream: from a position on, or its newest. It needs a history.

    Attributes:
        stream: The stream's name.
        from_: The position, in characters or items; 0 if absent. Not beside ``tail``.
        generation: Which start of the stream the position is of: of another, all is answered. 0 for whichever.
        tail: In place of a position: how many characters or items are wanted, the newest.
    """

    stream: StreamName
    from_: Given | UnsetType = msgspec.field(default=UNSET, name="from")
    generation: Given | UnsetType = UNSET
    tail: Tail | UnsetType | None = UNSET


class GetResult(OfJob, frozen=True, kw_only=True):
    """Ask how a job has ended, with its whole result. It needs a history.

    Attributes:
        job: Whether the answer is to have what a snapshot says of the job, too.
    """

    job: bool | UnsetType = UNSET


class CancelJob(OfJob, frozen=True, kw_only=True):
    """Cancel a job, where a rule allows it. It needs a history."""


class RerunJob(OfJob, frozen=True, kw_only=True):
    """Have a job that has ended run again, where a rule allows it and its message is kept. It needs a history."""


class RefreshToken(Struct, frozen=True):
    """Show a new token of the same user, so that the connection stays.

    Attributes:
        token: As in the ``auth`` object.
    """

    token: Any


class ReportLag(Struct, frozen=True):
    """Report how late events came, to a server that has asked for it.

    Attributes:
        lags: Of each event, the milliseconds from its ``timestamp`` until it came, by the server's clock.
    """

    lags: Annotated[list[int | float], Meta(extra_json_schema={"maxItems": MOST_LAGS})]


# -- answers ------------------------------------------------------------------------------------------------------


class Done(Struct, frozen=True):
    """It is done."""

    ok: Literal[True]


class Refused(Struct, frozen=True):
    """It is refused. The same comes as an `error` event."""

    ok: Literal[False]
    error: RealtimeError


class Job(events.StatusChange, frozen=True, kw_only=True, tag_field="event", tag="status_change"):
    """A job as a snapshot has it: its latest status and progress, and its metadata.

    Attributes:
        progress: Percent, 0..100; null if none was reported in this attempt.
        message: What the job does now; null if it does not say.
        current: Units that are done; null if the task has reported percent.
        total: Units in all; null if the task has reported percent.
        stalled: Whether the job has been silent for longer than it should.
        stage: Of a job with stages, the name of the one that it is at; null for none of them.
        stages: Of such a job, all that are known, in their order; their weighted mean is the progress.
        metadata: Keys and values; absent if it has none.
    """

    progress: Percent | None
    message: str | None
    current: int | float | None
    total: int | float | None
    stalled: bool
    stage: str | UnsetType | None = UNSET
    stages: tuple[StageState, ...] | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    trace_id: TraceId | UnsetType = UNSET
    span_id: SpanId | UnsetType = UNSET


class Jobs(Struct, frozen=True, kw_only=True):
    """What there is of a project, or of one job of it.

    Attributes:
        epoch: That of the project's history; null without one.
        offset: Up to where `jobs` has all events; null without a history.
        jobs: The latest state of live and recently ended jobs, by `timestamp`.
        jobs_total: How many there are.
        workflows: The latest state of workflows of these jobs, and of recent ones; none in that of one job.
    """

    project_id: ProjectId
    epoch: Epoch | None
    offset: Offset | None
    jobs: list[Job]
    jobs_total: Count
    workflows: list[Workflow]


class Snapshot(Jobs, frozen=True, kw_only=True):
    """What there is of a project, or of one job of it, and what was missed.

    Attributes:
        recovered: Whether `events` is all that came after `since`; never without `since`.
        events: What was missed, in order; empty unless `recovered`.
        report_lag: Seconds between two reports of the client's lag; absent if none are wanted.
    """

    ok: Literal[True]
    recovered: bool
    events: list[MissedItem]
    report_lag: Seconds | UnsetType = UNSET


class ProjectSubscribed(Snapshot, frozen=True, kw_only=True):
    """What there is of a project, and what was missed.

    Attributes:
        next: Where to read on for jobs that there was no room for, with `read_jobs`; absent if `jobs` has all.
        version: The version of the server; absent unless it was asked for.
    """

    next: str | UnsetType = UNSET
    version: str | UnsetType = UNSET


class StoredStream(Struct, frozen=True, kw_only=True):
    """What is kept of a stream.

    Attributes:
        stream: The stream's name.
        kind: Whether it is a text, or items.
        attempt: The attempt of the job that it is of.
        generation: Which start of the stream it is of; one with a higher number begins anew at 0.
        state: The stream's state.
        task: The task's name; null if it is not known any more.
        start: Where `value` begins, in characters (Unicode code points) or items: above what was asked for if that was
            let go.
        position: Where `value` ends: go on from here.
        end: Where the stream ends: above `position` if there is more to be read.
        value: A text, or a list of items.
    """

    stream: StreamName
    kind: StreamKind
    attempt: Count
    generation: Count
    state: StreamState
    task: str | None
    start: Place
    position: Place
    end: Place
    value: str | list[Any]


class LogLine(Struct, frozen=True, kw_only=True):
    """An item of the stream `log`: what a job has logged or printed. A `log_filter` may have made something else of it.

    Attributes:
        time: When that was: UTC, ISO 8601, milliseconds, ``Z``.
        level: The level's name, such as `INFO`.
        logger: The logger's name.
        message: What was logged.
        dropped: How many lines were left out before this one, which says so; absent for all others.
    """

    time: Time
    level: str
    logger: str
    message: str
    dropped: Count | UnsetType = UNSET


class JobSubscribed(Snapshot, frozen=True, kw_only=True):
    """What there is of a job, with its streams, and what was missed.

    Attributes:
        streams: What is kept of its streams, by their names.
        live_only: There is no history, so no streams are kept.
    """

    job_id: JobId
    streams: list[StoredStream]
    live_only: Flag | UnsetType = UNSET


class JobsPage(Struct, frozen=True, kw_only=True):
    """Further jobs of a project.

    Attributes:
        offset: As of when they are: up to where they have all events.
        jobs: Further jobs, and those that have changed since the page before; with a filter there may be none.
        next: Where to read on; null behind the last page.
        unread: Of jobs that were named, those that there was no room for; absent if there are none.
    """

    ok: Literal[True]
    project_id: ProjectId
    epoch: Epoch
    offset: Offset
    jobs: list[Job]
    next: str | None
    unread: list[JobId] | UnsetType = UNSET


class StreamPage(StoredStream, frozen=True, kw_only=True):
    """What is kept of a stream from a position on."""

    ok: Literal[True]
    job_id: JobId
    project_id: ProjectId


class Result(Struct, frozen=True, kw_only=True):
    """How a job has ended, or how far it is.

    Attributes:
        status: What people are shown.
        state: Celery's own word for it, or one of the application's that only the result backend knows.
        result: Of a success, all of what the task returned, as JSON; else null.
        error: Of an error, one line such as ``ValueError: no luck``; else null.
        truncated: The result was too large for an event, and the result backend does not have it, or no longer.
        job: The job as a snapshot has it; absent unless it was asked for and is on record.
    """

    ok: Literal[True]
    job_id: JobId
    project_id: ProjectId
    status: Status
    state: str
    result: Any
    error: str | None
    job: Job | UnsetType = UNSET
    truncated: Flag | UnsetType = UNSET


class Cancelled(Struct, frozen=True, kw_only=True):
    """What has come of a request to cancel a job.

    Attributes:
        cancel: `requested`, and the job's own end follows, or `too_late`.
        how: What is done about it; absent if it is too late.
    """

    ok: Literal[True]
    job_id: JobId
    project_id: ProjectId
    cancel: Literal["requested", "too_late"]
    how: Literal["before_start", "terminate", "cooperative", "unconfirmed"] | UnsetType = UNSET


class Rerun(Struct, frozen=True, kw_only=True):
    """The job runs again, as another job.

    Attributes:
        job_id: The new job.
        rerun_of: The job that it was made from.
    """

    ok: Literal[True]
    job_id: JobId
    project_id: ProjectId
    rerun_of: JobId


class TokenRefreshed(Struct, frozen=True):
    """The new token is taken for the old one.

    Attributes:
        expires_in: Seconds until it expires; null if it never does.
    """

    ok: Literal[True]
    expires_in: int | float | None


class LagTaken(Struct, frozen=True):
    """The report is taken.

    Attributes:
        time: The server's clock when it came, in milliseconds since 1970.
    """

    ok: Literal[True]
    time: int


class Connected(Struct, frozen=True):
    """The connection is accepted.

    Attributes:
        sid: Its Socket.IO session id.
    """

    sid: str


class ConnectionRefused(Struct, frozen=True):
    """The connection is refused: ``connect_error`` in socket.io-client.

    Attributes:
        message: One sentence, which may be shown to the user.
        data: The same with its code; a handler of the application may have refused with something else.
    """

    message: str
    data: RealtimeError | UnsetType = UNSET


# -- plain HTTP ---------------------------------------------------------------------------------------------------


class SnapshotEvent(Jobs, frozen=True, kw_only=True):
    """What there is, of a client that comes for the first time, or of which not all can be sent that it has missed.

    Attributes:
        job_id: The one job that is followed; absent for a project.
        recovered: The client has missed what it was not sent.
        next: There are further jobs, which follow as `agent_jobs`; absent if there are none.
        live_only: There is no history, so no streams are kept.
    """

    job_id: JobId | UnsetType = UNSET
    recovered: Literal[False]
    next: str | UnsetType = UNSET
    live_only: Flag | UnsetType = UNSET


class ResumedEvent(Struct, frozen=True, kw_only=True):
    """All that the client has missed follows, up to this place.

    Attributes:
        job_id: The one job that is followed; absent for a project.
        recovered: The client misses nothing.
    """

    project_id: ProjectId
    job_id: JobId | UnsetType = UNSET
    epoch: Epoch
    offset: Offset
    recovered: Literal[True]


class JobsEvent(Struct, frozen=True, kw_only=True):
    """Further jobs of a large project.

    Attributes:
        jobs: Further jobs, and those that have changed since the last ones.
        complete: Whether these are the last.
    """

    project_id: ProjectId
    jobs: list[Job]
    complete: bool


class ProjectJobs(Jobs, frozen=True, kw_only=True):
    """The jobs of a project.

    Attributes:
        next: Where to read on for jobs that there was no room for, as `from` in the query; absent if `jobs` has all.
    """

    ok: Literal[True]
    next: str | UnsetType = UNSET


class JobResult(Job, frozen=True, kw_only=True, tag_field="event", tag="status_change"):
    """A job as a snapshot has it, with its whole result.

    Attributes:
        state: Celery's own word for it, or one of the application's that only the result backend knows.
    """

    ok: Literal[True]
    state: str
    result: Any


class Request(NamedTuple):
    """A request of clients.

    Attributes:
        data: What it is sent with.
        answer: What its acknowledgement is, unless it is :class:`Refused`.
    """

    data: type[Struct]
    answer: type[Struct]


#: The events of clients that are answered, each by the handlers' method ``on_...`` of its name.
REQUESTS: dict[str, Request] = {
    "subscribe_project": Request(SubscribeProject, ProjectSubscribed),
    "unsubscribe_project": Request(UnsubscribeProject, Done),
    "subscribe_job": Request(SubscribeJob, JobSubscribed),
    "unsubscribe_job": Request(UnsubscribeJob, Done),
    "read_jobs": Request(ReadJobs, JobsPage),
    "read_stream": Request(ReadStream, StreamPage),
    "get_result": Request(GetResult, Result),
    "cancel_job": Request(CancelJob, Cancelled),
    "rerun_job": Request(RerunJob, Rerun),
    "refresh_token": Request(RefreshToken, TokenRefreshed),
    "report_lag": Request(ReportLag, LagTaken),
}

#: The data of each event that servers send. All others are custom, with :data:`CustomData`.
EVENTS: dict[str, Any] = {
    STATUS_EVENT: StatusChange,
    PROGRESS_EVENT: ProgressUpdate,
    METADATA_EVENT: MetadataUpdate,
    WORKFLOW_EVENT: WorkflowUpdate,
    STREAM_EVENT: StreamChunk,
    BATCH_EVENT: list[BatchItem],
    HIDDEN_EVENT: Hidden,
    RESYNC_EVENT: Resync,
    EXPIRING_EVENT: TokenExpiring,
    ERROR_EVENT: ErrorEvent,
}

#: The data of each server-sent event. All others are custom, with :data:`CustomData`.
HTTP_EVENTS: dict[str, Any] = {
    SNAPSHOT_EVENT: SnapshotEvent,
    RESUMED_EVENT: ResumedEvent,
    JOBS_EVENT: JobsEvent,
    **{name: EVENTS[name] for name in (STATUS_EVENT, PROGRESS_EVENT, METADATA_EVENT, WORKFLOW_EVENT, STREAM_EVENT)},
    **{name: EVENTS[name] for name in (HIDDEN_EVENT, EXPIRING_EVENT)},
    events.ERROR_EVENT: ErrorEvent,
}

#: What is answered in JSON, by the path behind the prefix of the routes.
HTTP_ANSWERS: dict[str, Any] = {
    "/jobs": ProjectJobs | JobsPage,
    "/jobs/{job_id}": JobResult | Result,
}

#: Members without a description of their own that another struct describes.
DESCRIBED_BY: dict[type[Struct], type[Struct]] = {events.StatusChange: events.Details}

#: Structs to which the application adds members of its own.
OPEN: tuple[type[Struct], ...] = (CustomObject,)

#: What has a name beside the structs.
NAMED: dict[str, Any] = {
    "Status": Status,
    "State": State,
    "StageStatus": events.StageStatus,
    "StreamKind": StreamKind,
    "StreamState": StreamState,
    "RefusalCode": RefusalCode,
    "CustomData": CustomData,
    "MissedItem": MissedItem,
    "BatchItem": BatchItem,
}
