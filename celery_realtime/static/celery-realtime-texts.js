// What the elements say, by language, with its formats of numbers and times.

// A text is a string or, by the plural category of {n}, an object. Further languages are added by the page: texts.fr = {...}.
export const texts = {
  en: {
    queued: "queued", running: "running", success: "done", error: "failed", stalled: "silent",
    RETRY: "waiting", REVOKED: "stopped", REJECTED: "rejected", IGNORED: "ignored", LOST: "lost",
    jobs: "Jobs of {project}", job: "Job", flow: "{name}, {n} jobs", sum: "{done} of {total} done", failedToo: "{n} failed",
    done: { one: "{n} job done", other: "{n} jobs done" }, failed: { one: "{n} job failed", other: "{n} jobs failed" },
    wait: "Waiting for a worker", starts: "Starts at {time}", expires: "expires in {time}", ran: "ran {time}",
    retry: "retry {n}", retryOf: "retry {n} of {max}", at: "{what} at {time}",
    statuses: "Jobs by status", filter: "Filter by name or message", of: "{n} of {total}", none: "No job matches.",
    empty: "No jobs yet.", unknown: "This job is not known.", subscribing: "Connecting…", paused: "Paused", closed: "Closed",
    stale: "Out of date, reconnecting…", refused: "Not shown: {why}",
    stop: "Stop", stopping: "Stopping…", too_late: "It had already ended.",
    unconfirmed: "No worker has answered yet.", forbidden: "You are not allowed to.", failing: "Not done: {why}",
    offline: "not connected", silence: "the server does not answer",
    rerun: "Run again", rerunning: "Starting…", rerunDone: "Started again.", rerunOf: "again",
    dismiss: "Dismiss", dismissed: { one: "{n} job dismissed", other: "{n} jobs dismissed" }, clear: "Dismiss ended", restore: "Show {n} dismissed", more: "Show more",
    stages: "Stages", pending: "not begun", metadata: "Metadata", rerun_of: "Rerun of", priority: "Priority", time_limit: "Time limit",
    writing: "being written", complete: "complete", broken: "broken off",
    result: "Result", log: "Log", load: "Load the result", lines: "{name}, the last {n} of {total}", details: "Details",
    queued_at: "Queued", started_at: "Started", ended_at: "Ended", attempt: "Attempt", worker: "Worker", queue: "Queue", task: "Task", job_id: "Id",
  },
  de: {
    queued: "wartet", running: "läuft", success: "fertig", error: "gescheitert", stalled: "stumm",
    RETRY: "wartet", REVOKED: "gestoppt", REJECTED: "abgelehnt", IGNORED: "übergangen", LOST: "verloren",
    jobs: "Aufträge von {project}", job: "Auftrag", flow: "{name}, {n} Aufträge", sum: "{done} von {total} fertig", failedToo: "{n} gescheitert",
    done: { one: "{n} Auftrag fertig", other: "{n} Aufträge fertig" }, failed: { one: "{n} Auftrag gescheitert", other: "{n} Aufträge gescheitert" },
    wait: "Wartet auf einen Worker", starts: "Beginnt um {time}", expires: "verfällt in {time}", ran: "lief {time}",
    retry: "Wiederholung {n}", retryOf: "Wiederholung {n} von {max}", at: "{what} um {time}",
    statuses: "Aufträge nach Status", filter: "Nach Name oder Meldung filtern", of: "{n} von {total}", none: "Kein Auftrag passt.",
    empty: "Noch keine Aufträge.", unknown: "Dieser Auftrag ist nicht bekannt.", subscribing: "Verbindet…", paused: "Angehalten", closed: "Geschlossen",
    stale: "Veraltet, verbindet erneut…", refused: "Nicht gezeigt: {why}",
    stop: "Stoppen", stopping: "Wird gestoppt…", too_late: "Er war schon zu Ende.",
    unconfirmed: "Noch hat kein Worker geantwortet.", forbidden: "Das ist nicht erlaubt.", failing: "Nicht getan: {why}",
    offline: "nicht verbunden", silence: "der Server antwortet nicht",
    rerun: "Erneut starten", rerunning: "Wird gestartet…", rerunDone: "Erneut gestartet.", rerunOf: "erneut",
    dismiss: "Ausblenden", dismissed: { one: "{n} Auftrag ausgeblendet", other: "{n} Aufträge ausgeblendet" }, clear: "Beendete ausblenden", restore: "{n} ausgeblendete zeigen", more: "Mehr zeigen",
    stages: "Abschnitte", pending: "nicht begonnen", metadata: "Metadaten", rerun_of: "Neustart von", priority: "Priorität", time_limit: "Zeitgrenze",
    writing: "wird geschrieben", complete: "vollständig", broken: "abgebrochen",
    result: "Ergebnis", log: "Protokoll", load: "Ergebnis laden", lines: "{name}, die letzten {n} von {total}", details: "Einzelheiten",
    queued_at: "Eingereiht", started_at: "Begonnen", ended_at: "Beendet", attempt: "Versuch", worker: "Worker", queue: "Queue", task: "Task", job_id: "Id",
  },
};

const formats = new Map(); // by language; they take long to make
const isOver = (job) => job.status === "success" || job.status === "error";
const secondsUntil = (time) => (Date.parse(time) - Date.now()) / 1000;

// The words of an element: of the nearest `lang`, and its own.
export function wordsFor(element) {
  let named;
  for (let node = element; node && !named; node = node.getRootNode().host) named = node.closest("[lang]");
  let lang = "en";
  try { lang = Intl.getCanonicalLocales(named?.lang || [])[0] ?? "en"; } catch { /* no language: English, as without */ }
  return new Words(lang, element.texts);
}

class Words {
  constructor(lang, own) {
    this._texts = { ...texts.en, ...texts[lang.split("-")[0]], ...texts[lang], ...own };
    if (!formats.has(lang)) formats.set(lang, formatsOf(lang));
    this._formats = formats.get(lang);
  }

  percent(value) { return this._formats.percent.format(value / 100); }
  number(value) { return this._formats.number.format(value); }
  moment(time) { return this._formats.moment.format(Date.parse(time)); }

  // The time of day alone is of today.
  clock(time, isExact) {
    const date = new Date(time), { clock, second } = this._formats;
    return date.toDateString() === new Date().toDateString() ? (isExact ? second : clock).format(date) : this.moment(time);
  }

  // "now", "20 sec. ago", "3 min. ago"
  ago(time) {
    const seconds = Math.max(0, -secondsUntil(time)), format = (count, unit) => this._formats.ago.format(-Math.floor(count), unit);
    if (seconds < 60) return format(Math.floor(seconds / 10) * 10, "second");
    if (seconds < 3600) return format(seconds / 60, "minute");
    return seconds < 86400 ? format(seconds / 3600, "hour") : format(seconds / 86400, "day");
  }

  say(key, values = {}) {
    let text = this._texts[key] ?? "";
    if (typeof text === "object") text = text[this._formats.plural.select(values.n)] ?? text.other ?? "";
    const shown = (name) => (typeof values[name] === "number" ? this.number(values[name]) : values[name] ?? "");
    return String(text).replace(/\{(\w+)\}/g, (_, name) => shown(name));
  }

  // "4.2 s", "3 min", "2 h 5 min"
  duration(seconds, isExact) {
    const whole = Math.floor(Math.max(0, seconds)), minutes = Math.floor(whole / 60);
    if (!minutes) return `${this.number(isExact ? Math.max(0, seconds) : whole)} s`;
    return minutes < 60 ? `${minutes} min` : `${this.number(Math.floor(minutes / 60))} h ${minutes % 60} min`;
  }

  name(job) {
    return job.label || job.task?.split(".").pop() || this.say("job");
  }

  status(job) {
    const key = job.stalled ? "stalled" : job.state;
    return this.say(Object.hasOwn(this._texts, key) ? key : job.status);
  }

  time(job) {
    if (job.runtime != null) return this.say("ran", { time: this.duration(job.runtime, true) });
    if (isOver(job)) return job.ended_at ? this.clock(job.ended_at) : "";
    return job.status === "running" && job.started_at ? this.duration(-secondsUntil(job.started_at)) : "";
  }

  // "retry 2 of 5 at 14:03"
  attempt({ attempt: n, max_retries: max, state, eta, rerun_of: rerun }) {
    if (!n) return rerun ? this.say("rerunOf") : "";
    const what = this.say(max == null ? "retry" : "retryOf", { n, max });
    return state === "RETRY" && eta ? this.say("at", { what, time: this.clock(eta) }) : what;
  }

  // What a job says, or waits for: "Waiting for a worker, expires in 3 min"
  message(job) {
    if (job.status !== "queued") return job.error ?? job.message ?? "";
    const { state, eta, error, expires_at: expires } = job;
    const starts = secondsUntil(eta) > 0 ? this.say("starts", { time: this.clock(eta) }) : this.say("wait");
    const parts = [state === "RETRY" && error ? error : starts];
    if (expires) parts.push(this.say("expires", { time: this.duration(secondsUntil(expires)) }));
    return parts.join(", ");
  }
}

function formatsOf(lang) {
  return {
    percent: new Intl.NumberFormat(lang, { style: "percent" }),
    number: new Intl.NumberFormat(lang, { maximumFractionDigits: 1 }),
    plural: new Intl.PluralRules(lang),
    ago: new Intl.RelativeTimeFormat(lang, { numeric: "auto", style: "short" }),
    clock: new Intl.DateTimeFormat(lang, { hour: "2-digit", minute: "2-digit" }),
    second: new Intl.DateTimeFormat(lang, { hour: "2-digit", minute: "2-digit", second: "2-digit" }),
    moment: new Intl.DateTimeFormat(lang, { dateStyle: "medium", timeStyle: "medium" }),
  };
}
