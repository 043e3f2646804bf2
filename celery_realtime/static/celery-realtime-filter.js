// Follow those jobs of a project that match a filter, or the first of many: what is shown is what matches, live.

import { attend } from "./celery-realtime-lifecycle.js";
import { Subscription, subscribeProject as subscribeToAll } from "./celery-realtime.js";

const MEMBERS = ["status", "task", "label"];
const MOST = 100; // jobs that a server reads at once
const PAUSE = 50; // milliseconds in which jobs are collected for that
const CALLBACKS = { agent_status: "onStatus", agent_progress: "onProgress", agent_metadata: "onMetadata" };

export function subscribeProject(socket, projectId, options = {}) {
  const filter = checked(options.filter);
  const { filter: _, ...others } = options;
  if (!filter && !options.limit) return subscribeToAll(socket, projectId, others);
  return new Filtered(socket, String(projectId), { ...options, filter });
}

// Does a job match a filter, such as { status: ["running"], task: ["reports.*"] }? All that is named has to fit.
export function matches(filter, job) {
  return MEMBERS.every((name) => {
    const wanted = listOf(filter?.[name]), value = job[name];
    if (!wanted.length) return true;
    return typeof value === "string" && wanted.some((one) => (name === "status" ? one === value : isLike(value, one)));
  });
}

const listOf = (value) => (Array.isArray(value) ? value : value == null ? [] : [value]);

// A star stands for any characters. The first place where each part is found leaves most for the others.
function isLike(text, pattern) {
  const [first, ...parts] = String(pattern).split("*");
  if (!parts.length) return text === first;
  const last = parts.pop(), end = text.length - last.length;
  let place = first.length;
  if (end < place || !text.startsWith(first) || !text.endsWith(last)) return false;
  for (const part of parts) {
    const found = text.indexOf(part, place);
    if (found < 0 || found + part.length > end) return false;
    place = found + part.length;
  }
  return true;
}

// The filter as a server takes it; null for none. What is none is refused there, with its reason.
function checked(filter) {
  if (filter == null) return null;
  if (typeof filter !== "object" || Array.isArray(filter)) throw new TypeError("filter: { status, task, label }, of lists");
  const members = Object.entries(filter).map(([name, value]) => [name, [...listOf(value)]]); // it may be a proxy
  const named = members.filter(([name, list]) => list.length || !MEMBERS.includes(name));
  return named.length ? Object.fromEntries(named) : null;
}

// Is all of a job said by this event?
const isBirth = ({ new_run, status, attempt, worker }) => new_run || (status === "queued" && !attempt && !worker);

class Filtered extends Subscription {
  _aside = new Map(); // jobs that do not match, and are known whole
  _parts = new Set(); // jobs that are shown, and of which not all is known
  _canRead = true;

  constructor(socket, projectId, options) {
    const also = options.filter ? { filter: options.filter } : {};
    super(socket, projectId, { ...options, also, attend() {} }); // it begins when it is whole
    this._limit = options.limit || Infinity;
    this._shown = Object.freeze({ ...this._shown, hasMore: false, loadMore: this.loadMore });
    this._options.attend = options.attend ?? attend;
    this._options.attend(this, true);
  }

  get hasMore() { return this._shown.hasMore; }

  // Reads on until there are so many more jobs, or no others.
  loadMore = (count = this._options.limit || 1000) => {
    const { _options: options, _shown: { jobs } } = this;
    this._limit = jobs.size + count;
    options.maxJobs = Math.max(options.maxJobs, this._limit);
    this._readOn();
  };

  _set(changes, why) {
    const page = why?.recovered && this._page;
    if (page) changes.jobs = this._sift(this._of(page, changes.jobs), page);
    super._set({ ...changes, hasMore: Boolean(this._next) }, why);
  }

  _of(page, jobs) { return new Map([...this._byId(page.jobs, "job_id").keys()].map((key) => [key, jobs.get(key)])); }

  // The history may have lost the ends of jobs that are not shown, too.
  _answered(request, answer) {
    const isNew = request === this._asking && answer?.ok && answer.epoch !== this.epoch;
    if (isNew) this._past = new Map([...this._past, ...this._aside]);
    super._answered(request, answer);
  }

  _load(answer) {
    this._aside.clear();
    this._parts.clear();
    const all = this._byId(answer.jobs, "job_id");
    super._load({ ...answer, jobs: [...this._sift(all, {}).values()], jobs_total: answer.jobs_total ?? all.size });
  }

  _takePage() {
    this._page = this._reading?.page;
    super._takePage();
  }

  _readOn() {
    if (this._reading) return;
    if (this._parts.size && this._canRead && this._live && !this._asking) {
      this._readSome([...this._parts].slice(0, MOST));
    } else if (this._shown.jobs.size < this._limit) super._readOn();
  }

  // As a page: what has happened since is applied to it.
  _readSome(jobs) {
    const reading = (this._reading = { recent: [] });
    this._after("page", this._options.ackTimeout, this._ask);
    this._socket.emit("read_jobs", { project_id: this.projectId, jobs }, (answer) => {
      if (answer?.error?.code === "bad_request") return this._doWithout(reading);
      if (answer?.ok && answer.epoch === this.epoch) reading.page = { ...answer, next: this._next, asked: jobs };
      this._takePage();
    });
  }

  // An older server reads no single jobs: what events say of them is all that is known.
  _doWithout(reading) {
    this._canRead = false;
    if (reading !== this._reading) return;
    this._reading = null;
    this._clear(["page"]);
    this._readOn();
  }

  _deliver(item, page) {
    const { event, data } = item, key = data?.job_id;
    if (page || !Object.hasOwn(CALLBACKS, event) || typeof key !== "string") return super._deliver(item, page);
    const { jobs } = this._shown, known = jobs.get(key) ?? this._aside.get(key);
    const box = new Map(known && [[key, known]]);
    super._deliver(item, box); // as of a page: it is merged, and nobody is told
    const job = box.get(key);
    if (!job || job === known) return;
    const fits = this._settle(job, key, known, data);
    if (!fits && !jobs.has(key)) return;
    const rows = this._unseen.has(jobs) ? jobs : new Map(jobs);
    if (fits) rows.set(key, job);
    else rows.delete(key);
    this._unseen.add(rows);
    if (rows.size > this._options.maxJobs) forgetOne(rows, key);
    this._set({ jobs: rows }, { reason: "jobs", key, ...(fits ? {} : { left: job }) });
    this._call(this._options[CALLBACKS[event]], data, this);
  }

  // Puts what an event has made of a job where it belongs; returns whether it matches.
  _settle(job, key, known, data) {
    const fits = matches(this._options.filter, job);
    const isWhole = isBirth(data) || this.epoch === null || (known && !this._parts.has(key));
    this._aside.delete(key);
    this._parts.delete(key);
    if (!isWhole && fits) this._parts.add(key);
    if (isWhole && !fits) this._putAside(key, job);
    if (this._parts.size && !this._timers.parts && this._canRead) {
      this._after("parts", PAUSE, () => {
        this._clear(["parts"]);
        this._readOn();
      });
    }
    return fits;
  }

  _putAside(key, job) {
    this._aside.set(key, job);
    if (this._aside.size > this._options.maxJobs) this._aside.delete(this._aside.keys().next().value);
  }

  // Jobs of a snapshot, of a further page, or some that were asked for. An older server sends all jobs.
  _sift(jobs, page) {
    const { asked, unread = [] } = page;
    for (const key of asked ?? []) if (!unread.includes(key)) this._parts.delete(key);
    const rows = new Map([...(asked ? [] : jobs), ...(page.jobs ? this._shown.jobs : [])]);
    for (const [key, job] of jobs) {
      this._parts.delete(key);
      this._aside.delete(key);
      if (job && matches(this._options.filter, job)) rows.set(key, job);
      else {
        rows.delete(key);
        if (job) this._putAside(key, job);
      }
    }
    return rows;
  }
}

function forgetOne(jobs, newest) {
  for (const [key, { status }] of jobs) {
    if (key !== newest && (status === "success" || status === "error")) return jobs.delete(key);
  }
}
