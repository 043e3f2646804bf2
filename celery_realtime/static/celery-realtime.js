// Follow every job of a project over a socket of socket.io-client (v4), live and without gaps.
// The server numbers its events: 1, 2, 3, ... within an epoch. They are passed on in that order, each once. Events
// of many workers overtake each other: a hole is given a moment to fill, and then asked for.

const PASSING = ["unavailable", "too_many_requests"]; // over in a moment, perhaps
const RANK = { queued: 0, running: 1, success: 2, error: 2 };
const PROGRESS = ["progress", "message", "current", "total"];
const OURS = { agent_status: "onStatus", agent_progress: "onProgress", agent_workflow: "onWorkflow" };

const MAX_PENDING = 2000;
const DEFAULTS = { ackTimeout: 5000, gapTimeout: 250, checkInterval: 30000, firstPause: 500, longestPause: 10000 }; // ms

const shares = new WeakMap(); // socket -> project -> share

export function subscribeProject(socket, projectId, options = {}) {
  return new ProjectSubscription(socket, String(projectId), options);
}

class ProjectSubscription {
  constructor(socket, projectId, options) {
    this.projectId = projectId;
    this.epoch = options.since?.epoch ?? null;
    this.offset = options.since?.offset ?? null;
    this._socket = socket;
    this._options = { ...DEFAULTS, ...options };
    this._listeners = new Set();
    this._timers = {};
    this._pending = new Map(); // offset -> an event above a hole
    this._early = []; // what came before the answer
    this._asking = 0; // the number of the request that is under way
    this._asked = 0;
    this._answered = this._began = this._closed = false;
    const empty = { jobs: new Map(), workflows: new Map(), jobsTotal: 0 };
    this._snapshot = Object.freeze({ state: "subscribing", error: null, ...empty });
    this._listen();
    this._share = shareOf(socket, projectId);
    this._share.users++;
    if (socket.connected) this._connected();
  }

  get jobs() { return this._snapshot.jobs; }
  get workflows() { return this._snapshot.workflows; }
  get state() { return this._snapshot.state; }
  get error() { return this._snapshot.error; }

  // React's useSyncExternalStore calls these two without the object.
  subscribe = (listener) => {
    this._listeners.add(listener);
    return () => this._listeners.delete(listener);
  };

  getSnapshot = () => this._snapshot;

  close() {
    if (this._closed) return;
    this._closed = true;
    this._clear();
    this._unlisten();
    this._listeners.clear();
    if (--this._share.users === 0 && this._socket.connected) this._leave();
  }

  // Servers answer side by side: this must not overtake who subscribes again at once.
  _leave() {
    const left = new Promise((resolve) => {
      setTimeout(resolve, this._options.ackTimeout);
      this._socket.once("disconnect", resolve);
      this._socket.emit("unsubscribe_project", { project_id: this.projectId }, resolve);
    });
    this._share.leaving = left.then(() => { this._share.leaving = null; });
  }

  // -- the connection

  _listen() {
    const socket = this._socket;
    const page = globalThis.document;
    const heard = (name, data) => this._heard(name, data);
    const connected = () => this._connected();
    const disconnected = () => this._disconnected();
    const check = () => this._check();
    socket.on("connect", connected).on("disconnect", disconnected).onAny(heard);
    page?.addEventListener("visibilitychange", check);
    this._unlisten = () => {
      socket.off("connect", connected).off("disconnect", disconnected).offAny(heard);
      page?.removeEventListener("visibilitychange", check);
    };
  }

  _connected() {
    this._pause = 0;
    this._ask();
  }

  _disconnected() {
    this._answered = false;
    this._asking = 0;
    this._pending.clear();
    this._clear();
    if (this.state !== "refused") this._set({ state: "stale" });
  }

  // A tab that slept, or a last event that was lost, leaves no hole to see.
  _check() {
    const quiet = Date.now() - this._heardAt > this._options.checkInterval / 2;
    if (this._answered) quiet ? this._ask() : this._checkLater();
  }

  _checkLater() {
    this._after("check", this._options.checkInterval * (0.75 + Math.random() / 2), () => this._check());
  }

  // -- asking

  _ask() {
    if (this._closed || !this._socket.connected) return;
    if (this._share.leaving) return void this._share.leaving.then(() => this._ask());
    this._again = this._asking > 0;
    if (this._again) return;
    this._clear("gap", "retry");
    const number = (this._asking = ++this._asked);
    this._early = [];
    const request = { project_id: this.projectId };
    if (this.epoch !== null) request.since = { epoch: this.epoch, offset: this.offset };
    if (this._options.batch) request.batch = true;
    this._after("ack", this._options.ackTimeout, () => this._told(number, null));
    this._socket.emit("subscribe_project", request, (answer) => this._told(number, answer));
  }

  _told(number, answer) {
    if (this._closed || number !== this._asking) return;
    this._asking = 0;
    this._clear("ack");
    if (!answer || !answer.ok) return this._refused(answer?.error ?? null);
    this._answered = true;
    this._pause = 0;
    this._take(answer);
    this._set({ state: "subscribed", error: null });
    this._heardAt = Date.now();
    this._checkLater();
    if (this._again) this._ask();
    else if (this._pending.size) this._waitForHole();
  }

  _refused(error) {
    const passing = !error || PASSING.includes(error.code);
    this._answered = false;
    this._set({ state: passing ? "stale" : "refused", error });
    if (!passing) return;
    this._pause = Math.min(Math.max(this._pause * 2, this._options.firstPause), this._options.longestPause);
    this._after("retry", this._pause * (0.5 + Math.random() / 2), () => this._ask());
  }

  // -- what is told

  _take(answer) {
    if (answer.recovered && answer.epoch === this.epoch) {
      const first = answer.offset - answer.events.length + 1;
      answer.events.forEach(({ event, data }, index) => this._place(event, data, first + index));
      if (!this._began) this._load(answer); // the events began with a handle
    } else if (answer.epoch === this.epoch ? answer.offset > this.offset || !this._began : true) {
      this._begin(answer);
    }
    const early = this._early;
    this._early = [];
    for (const { name, data, place } of early) this._sort(name, data, place);
    for (const offset of this._pending.keys()) if (offset <= this.offset) this._pending.delete(offset);
    this._drain();
  }

  _begin(answer) {
    if (answer.epoch !== this.epoch) this._pending.clear();
    this.epoch = answer.epoch;
    this.offset = answer.offset;
    this._load(answer);
  }

  _load(answer) {
    this._began = true;
    const jobs = new Map(answer.jobs.map((job) => [job.job_id, Object.freeze(job)]));
    const workflows = new Map((answer.workflows ?? []).map((flow) => [flow.root_id, Object.freeze(flow)]));
    this._set({ jobs, workflows, jobsTotal: answer.jobs_total ?? jobs.size }, { reason: "snapshot", recovered: false });
  }

  _heard(name, data) {
    if (name === "agent_batch") {
      if (Array.isArray(data)) for (const item of data) this._heardOne(item.event, item.data, item);
    } else {
      this._heardOne(name, data);
    }
  }

  _heardOne(name, data, item) {
    const mark = OURS[name] || name === "agent_resync" ? data : data?._realtime ?? item;
    if (mark?.project_id !== this.projectId || data?.replayed) return;
    this._heardAt = Date.now();
    if (name === "agent_resync") return this._ask();
    const place = Number.isInteger(mark.offset) ? { epoch: mark.epoch, offset: mark.offset } : null;
    if (this._answered) this._sort(name, data, place);
    else if (this._asking) this._early.push({ name, data, place });
  }

  _sort(name, data, place) {
    if (place === null) return this._deliver(name, data, true);
    if (place.epoch !== this.epoch) return this._ask();
    this._place(name, data, place.offset);
  }

  _place(name, data, offset) {
    if (offset <= this.offset) return;
    if (offset > this.offset + 1) {
      this._pending.set(offset, { name, data });
      return this._waitForHole();
    }
    this.offset = offset;
    this._deliver(name, data);
    this._drain();
  }

  _drain() {
    for (let next; (next = this._pending.get(this.offset + 1)); ) {
      this._pending.delete(++this.offset);
      this._deliver(next.name, next.data);
    }
    if (this._pending.size === 0) this._clear("gap");
  }

  _waitForHole() {
    if (this._pending.size > MAX_PENDING) {
      this._pending.clear();
      this._ask();
    } else if (this._timers.gap === undefined && this._asking === 0) {
      this._after("gap", this._options.gapTimeout, () => this._ask());
    }
  }

  // -- what it means

  _deliver(name, data, unnumbered = false) {
    if (name === "agent_workflow") {
      this._change("workflows", data.root_id, data);
    } else if (OURS[name]) {
      const before = this.jobs.get(data.job_id);
      if (unnumbered && before && isOld(before, name, data)) return;
      this._change("jobs", data.job_id, (name === "agent_status" ? withStatus : withProgress)(before, data));
    }
    if (OURS[name]) this._call(this._options[OURS[name]], data, this);
    else this._call(this._options.onEvent, name, data, this);
  }

  _change(kind, key, value) {
    const { epoch, offset, ...kept } = value;
    const entries = new Map(this._snapshot[kind]).set(key, Object.freeze(kept));
    this._set({ [kind]: entries }, { reason: kind, key });
  }

  _set(changes, why) {
    const before = this._snapshot;
    if (Object.keys(changes).every((name) => before[name] === changes[name])) return;
    this._snapshot = Object.freeze({ ...before, ...changes });
    this._call(this._options.onChange, this, why ?? { reason: "state" });
    for (const listener of [...this._listeners]) this._call(listener);
  }

  // A mistake in a callback is the page's to see, and must not cost it an event.
  _call(callback, ...args) {
    if (this._closed || !callback) return;
    try {
      callback(...args);
    } catch (error) {
      queueMicrotask(() => { throw error; });
    }
  }

  _after(name, delay, act) {
    this._clear(name);
    this._timers[name] = setTimeout(() => { delete this._timers[name]; act(); }, delay);
  }

  _clear(...names) {
    for (const name of names.length ? names : Object.keys(this._timers)) {
      clearTimeout(this._timers[name]);
      delete this._timers[name];
    }
  }
}

function shareOf(socket, projectId) {
  if (!shares.has(socket)) shares.set(socket, new Map());
  const projects = shares.get(socket);
  if (!projects.has(projectId)) projects.set(projectId, { users: 0, leaving: null });
  return projects.get(projectId);
}

// Without offsets: what of a job comes later than what is known of it?
function isOld(job, name, data) {
  if (data.attempt !== job.attempt) return data.attempt < job.attempt;
  if (name === "agent_progress") return RANK[job.status] > 1 || data.progress < (job.progress ?? 0);
  if (job.state === "LOST" && data.state !== "LOST") return data.status === "queued";
  const climbs = RANK[data.status] - RANK[job.status];
  return climbs < 0 || (climbs === 0 && (data.status !== "running" || data.worker === job.worker));
}

function withStatus(job, status) {
  const same = job?.attempt === status.attempt;
  const done = Object.fromEntries(PROGRESS.map((field) => [field, same ? job[field] ?? null : null]));
  return { ...status, ...done, stalled: status.status === "running" && same && Boolean(job.stalled) };
}

function withProgress(job, update) {
  const blank = { event: "status_change", status: "running", state: "STARTED", result: null, error: null };
  const { event, stalled, ...told } = update;
  const base = job && job.attempt === update.attempt ? job : { ...job, ...told, ...blank };
  const done = Object.fromEntries(PROGRESS.map((field) => [field, update[field] ?? null]));
  return { ...base, ...done, stalled: base.status === "running" && Boolean(stalled) };
}
