// Words for what else is known of a job: its attempts, when it may start, its queue, its limits, and how long it ran. All
// times are those of whoever looks at the page.

export function duration(milliseconds, decimals = 0) {
  const seconds = Number((milliseconds / 1000).toFixed(decimals));
  if (seconds < 60) return `${seconds.toFixed(decimals)} s`;
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (days) return `${days} d${rest(hours % 24, "h")}`;
  if (hours) return `${hours} h${rest(minutes % 60, "min")}`;
  return `${minutes} min${decimals ? rest(Math.floor(seconds % 60), "s") : ""}`;
}

const rest = (count, unit) => (count ? ` ${count} ${unit}` : "");

// "14:03", and the day if that is not today.
export function clock(time, more = { second: "2-digit" }, now = Date.now()) {
  const when = new Date(time), options = { hour: "2-digit", minute: "2-digit", ...more };
  const isToday = when.toDateString() === new Date(now).toDateString();
  return isToday ? when.toLocaleTimeString([], options) : when.toLocaleString([], { day: "numeric", month: "short", ...options });
}

// "retry 2 of 5 at 14:03"
export function attemptOf({ attempt, max_retries, state, eta }) {
  if (!attempt) return "";
  const most = max_retries == null ? "" : ` of ${max_retries}`;
  return `retry ${attempt}${most}${state === "RETRY" && eta ? ` at ${clock(eta, {})}` : ""}`;
}

// "Waiting for a worker, expires in 3 min"
export function waitingOf({ state, eta, expires_at }, now = Date.now()) {
  const words = [state === "RETRY" ? "Waiting for the next attempt" : "Waiting for a worker"];
  if (state !== "RETRY" && Date.parse(eta) > now) words[0] = `Starts at ${clock(eta, {}, now)}`;
  const left = Date.parse(expires_at) - now;
  if (expires_at) words.push(left > 0 ? `expires in ${duration(left)}` : "expired");
  return words.join(", ");
}

// "ran 4.2 s"
export const ranFor = ({ runtime }) => (runtime == null ? "" : `ran ${duration(runtime * 1000, 1)}`);

// Each with a name, a text, and the time that the text is of: [["queue", "celery"], ["started", "14:02:11", "2026-..."]]
export function factsOf(job) {
  const limits = [job.soft_time_limit, job.time_limit].filter((limit) => limit != null).map(limitOf);
  const texts = [["queue", job.queue], ["priority", job.priority], ["time limit", limits.join(", then ") || null]];
  const times = [["queued", job.queued_at], ["started", job.started_at], ["ended", job.ended_at]];
  return [
    ...texts.filter(([, text]) => text != null).map(([name, text]) => [name, String(text)]),
    ...times.filter(([, time]) => time).map(([name, time]) => [name, clock(time), time]),
  ];
}

const limitOf = (seconds) => (seconds % 60 ? `${seconds} s` : duration(seconds * 1000));
