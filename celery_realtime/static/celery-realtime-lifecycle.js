// When a subscription leaves, and comes back: the options enabled, pauseOnHidden and closeOnEnd, of a project and of a job.

// Let a subscription do what its options say now, and whenever the page or its jobs change, until it is closed.
// One that is being made (`isNew`) calls nobody back: who makes it does not have it yet.
export function attend(one, isNew = false) {
  if (one._closed) return;
  if (one._options.filter && !one._options.also) throw new TypeError("a filter needs celery-realtime-filter.js");
  one._options.attend = attend; // it needs to be loaded once
  one._life ??= lifeOf(one);
  one._life.see(isNew);
}

function lifeOf(one) {
  const page = globalThis.document;
  let away = one._here ? null : undefined, hasEnded = false, isDue = false;

  function reason() {
    const { enabled = true, pauseOnHidden = false, closeOnEnd = false } = one._options;
    if (!enabled) return "idle";
    if (closeOnEnd && hasEnded) return "closed";
    return pauseOnHidden && page?.visibilityState === "hidden" && !isLiveOnly(one) ? "paused" : null;
  }

  function see(isNew) {
    const before = away;
    away = reason();
    if (away === "idle") hasEnded = false; // who is enabled again looks again
    if (away === before) return;
    if (away) one._leave();
    const state = away ?? (one._began ? "stale" : "subscribing");
    if (isNew) one._shown = Object.freeze({ ...one._shown, state });
    else one._set({ state, error: null });
    if (!away && !one._closed) one._enter();
  }

  // Of what comes together, the last.
  function look() {
    isDue = false;
    if (one._closed || away || one.state !== "subscribed" || !one._options.closeOnEnd || !isOver(one._shown)) return;
    hasEnded = true;
    see();
  }

  const shown = () => see();
  const leave = one.subscribe(() => {
    if (!isDue && one._options.closeOnEnd) queueMicrotask(look, (isDue = true));
  });
  page?.addEventListener("visibilitychange", shown);
  const end = () => {
    leave();
    page?.removeEventListener("visibilitychange", shown);
  };
  return { see, end };
}

// Without a history, what happens in the meantime could not be made up for.
const isLiveOnly = ({ _began, epoch, liveOnly }) => _began && (epoch === null || liveOnly);

function isOver({ jobs, job, streams }) {
  if (jobs) return jobs.size > 0 && [...jobs.values()].every(hasEndedForGood);
  return hasEndedForGood(job) && ![...streams.values()].some(({ state }) => state === "open");
}

// An end that nobody saw is taken back when the job shows that it lives.
function hasEndedForGood(job) {
  if (job?.status === "error") return job.state !== "LOST" && !/^TaskRevokedError: expired/.test(job.error);
  return job?.status === "success";
}
