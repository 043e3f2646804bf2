// The latest state of each job, out of events that may come late, twice or in the wrong order.

const RANK = { queued: 0, running: 1, success: 2, error: 2 };

// A job that waits for its next attempt has been running: only time tells the two apart.
function rank(state) {
  return state.state === "RETRY" ? RANK.running : RANK[state.status];
}

export function isOver(job) {
  return job.status === "success" || job.status === "error";
}

// Offsets order the events of one epoch exactly; the clocks of two machines only nearly.
function isLater(event, than) {
  if (event.offset != null && than.offset != null && event.epoch === than.epoch) return event.offset > than.offset;
  return Date.parse(event.timestamp) > Date.parse(than.timestamp);
}

// A later attempt beats an earlier one; inside an attempt, what comes later in a job's life beats what comes before it.
// An end stays the end, except LOST: a job whose worker vanished may be delivered to another one.
function supersedes(event, job) {
  if (event.attempt !== job.attempt) return event.attempt > job.attempt;
  if (job.state === "LOST") return isLater(event, job);
  if (isOver(job)) return false;
  if (event.state === "LOST" || rank(event) === rank(job)) return isLater(event, job);
  return rank(event) > rank(job);
}

// Give back the job after a status event: the same object when the event says nothing new.
export function withStatus(job, event) {
  if (job && !supersedes(event, job)) return job;
  const sameRun = job && job.attempt === event.attempt && job.state !== "LOST";
  const before = sameRun ? job : {};
  return {
    ...event,
    created: job?.created ?? event.timestamp,
    started: job?.started ?? (event.status === "running" ? event.timestamp : null),
    progress: Math.max(before.progress ?? 0, event.progress ?? 0),
    message: event.message ?? before.message ?? null,
    progressed: before.progressed ?? null,
  };
}

// Progress of an attempt proves that it runs, also while its "running" is still on the way.
function withRunning(job, event) {
  if (job?.status === "running" && job.attempt === event.attempt) return job;
  const started = { status: "running", state: "STARTED", error: null };
  return withStatus(job, { ...job, ...event, ...started, progress: null, message: null });
}

// Give back the job after a progress event: it never goes backwards inside an attempt, and never moves what has ended.
export function withProgress(job, event) {
  const runs = withRunning(job, event);
  if (runs.status !== "running" || runs.attempt !== event.attempt) return runs;
  const percent = event.progress ?? runs.progress;
  if (percent < runs.progress) return runs;
  if (percent === runs.progress && runs.progressed && !isLater(event, runs.progressed)) return runs;
  const { epoch, offset, timestamp } = event;
  return { ...runs, progress: percent, message: event.message ?? runs.message, progressed: { epoch, offset, timestamp } };
}

// An element of a snapshot is a status event with the progress beside it.
export function withSnapshot(job, element) {
  const known = withStatus(job, element);
  return known === job && element.progress != null ? withProgress(job, element) : known;
}
