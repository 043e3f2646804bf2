"""The part of the wire format that a client needs to know; a test compares it with what servers send."""

from __future__ import annotations

STATUS_EVENT = "agent_status"
PROGRESS_EVENT = "agent_progress"
WORKFLOW_EVENT = "agent_workflow"
METADATA_EVENT = "agent_metadata"
#: A chunk of what a job says bit by bit.
STREAM_EVENT = "agent_stream"
#: A list of events, for subscribers that asked for ``batch``.
BATCH_EVENT = "agent_batch"
#: Stands for an event that this subscriber may not see, so that its offset leaves no hole.
HIDDEN_EVENT = "agent_hidden"
#: More happened than the server could pass on: ask again.
RESYNC_EVENT = "agent_resync"

#: Events that describe a job or a workflow; any other name is a custom event.
ENTRY_EVENTS = (STATUS_EVENT, PROGRESS_EVENT, WORKFLOW_EVENT, METADATA_EVENT)

#: The key under which a custom event's data carry the job, the project and the position.
MARK = "_realtime"

#: The member of the first event of a newer run of a job: what was reported of the run before is over.
NEW_RUN = "new_run"

#: A job's status only climbs within an attempt.
RANK_OF_STATUS = {"queued": 0, "running": 1, "success": 2, "error": 2}
TERMINAL_RANK = 2

#: What a job does later takes back an end of these states, which nobody may have seen, and one whose error begins with
#: these words.
SOFT_STATES = ("LOST", "REVOKED")
NOT_RUN = "not run: "

#: Refusals that may be over in a moment, so that asking again makes sense.
TRANSIENT_CODES = ("unavailable", "too_many_requests")
