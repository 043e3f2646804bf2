// Words for what else is known of a job: its attempts, when it may start, and how long it ran.

export function duration(milliseconds, decimals = 0) {
  const seconds = milliseconds / 1000;
  if (seconds < 60) return `${seconds.toFixed(decimals)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${minutes} min${decimals ? ` ${Math.floor(seconds % 60)} s` : ""}`;
}

export function clock(time, more = { second: "2-digit" }) {
  return new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", ...more });
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
  if (state !== "RETRY" && Date.parse(eta) > now) words[0] = `Starts at ${clock(eta, {})}`;
  if (expires_at) words.push(`expires in ${duration(Math.max(0, Date.parse(expires_at) - now))}`);
  return words.join(", ");
}

// "ran 4.2 s"
export const ranFor = ({ runtime }) => (runtime == null ? "" : `ran ${duration(runtime * 1000, 1)}`);
