// Follow a project over a socket of socket.io-client: each event once, in order.

const RANK = { queued: 0, running: 1, success: 2, error: 2 };
const OURS = {
  __proto__: null,
  agent_status: ["onStatus", "jobs", "job_id", withStatus],
  agent_progress: ["onProgress", "jobs", "job_id", withProgress],
  agent_metadata: ["onMetadata", "jobs", "job_id", withMetadata],
  agent_workflow: ["onWorkflow", "workflows", "root_id", (_, { event, timestamp, ...flow }) => flow],
  agent_resync: [], agent_hidden: [],
};
const MAX_HELD = 2000;
const DEFAULTS = {
  ackTimeout: 5000, gapTimeout: 250, checkInterval: 30000, firstPause: 500, longestPause: 10000, maxJobs: 5000,
  attend: (one) => import("./celery-realtime-lifecycle.js").then(({ attend }) => attend(one)),
};

const shares = new WeakMap(); // by socket and project

export function subscribeProject(socket, projectId, options = {}) {
  return new Subscription(socket, String(projectId), options);
}

export class Subscription {
  _shown = { state: "subscribing", error: null, jobs: new Map(), workflows: new Map(), jobsTotal: 0 };
  _unseen = new Set();
  _listeners = new Set();
  _timers = {};
  _waiting = new Map(); // above a hole
  _early = [];
  _foreign = new Set(); // epochs
  _past = new Map();

  constructor(socket, projectId, options) {
    const { epoch = null, offset = null } = options.since ?? {};
    Object.assign(this, { projectId, epoch, offset, _socket: socket, _share: shareOf(socket, projectId) });
    this._options = { ...options };
    for (const name in DEFAULTS) this._options[name] ??= DEFAULTS[name];
    if (["enabled", "pauseOnHidden", "closeOnEnd", "filter"].some((name) => name in options)) this._options.attend(this, true);
    else this._enter();
  }

  get jobs() { return this.getSnapshot().jobs; }
  get workflows() { return this.getSnapshot().workflows; }
  get state() { return this._shown.state; }
  get error() { return this._shown.error; }

  subscribe = (listener) => {
    this._listeners.add(listener);
    return () => this._listeners.delete(listener);
  };

  getSnapshot = () => {
    this._unseen.clear();
    return this._shown;
  };

  update(options) {
    Object.assign(this._options, options);
    this._options.attend(this);
  }

  close() {
    this._leave();
    this._closed = true;
    this._life?.end();
  }

  _enter() {
    this._here = true;
    this._share.users.add(this);
    this._listen("on", "add");
    this._ask();
  }

  _leave() {
    if (!this._here) return;
    this._here = false;
    this._reset();
    this._listen("off", "remove");
    const { _share: share, _socket: socket, projectId } = this;
    share.users.delete(this);
    if (share.users.size || !socket.connected) return;
    const leaving = (share.leaving = { id: socket.id });
    socket.emit("unsubscribe_project", { project_id: projectId }, () => share.leaving === leaving && left(share));
  }

  _handlers = {
    connect: () => this._ask(),
    disconnect: () => {
      this._reset();
      if (this.state !== "refused") this._set({ state: "stale" });
    },
    connect_error: ({ data }) => data?.code && this._refused(data),
  };

  _listen(on, add) {
    for (const name in this._handlers) this._socket[on](name, this._handlers[name]);
    this._socket[on + "Any"](this._hear);
    for (const name of ["visibilitychange", "online", "pageshow"]) globalThis[add + "EventListener"]?.(name, this._check);
  }

  _reset() {
    this._asking = this._reading = null;
    this._live = false;
    this._pause = 0;
    this._clear();
  }

  // Sleep and a lost last event leave no hole.
  _check = () => {
    if (!this._live || this._asking) return;
    const { checkInterval } = this._options;
    if (Date.now() - this._heardAt > checkInterval / 2) this._ask();
    else this._after("check", checkInterval * (0.75 + Math.random() / 2), this._check);
  };

  _ask = () => {
    if (!this._here || !this._socket.connected) return;
    this._clear();
    this._reading = null;
    const { ackTimeout, batch = true, also } = this._options;
    if (this._share.leaving?.id === this._socket.id) return this._after("retry", ackTimeout, () => left(this._share));
    const request = (this._asking = { project_id: this.projectId, ...also });
    this._again = false;
    if (this.epoch !== null) request.since = { epoch: this.epoch, offset: this.offset };
    if (batch) request.batch = true;
    const answered = (answer) => this._answered(request, answer);
    this._after("ack", ackTimeout, answered);
    this._socket.emit("subscribe_project", request, answered);
  };

  // Unsubscribed, a request is due or in vain.
  _askAgain() {
    if (this._asking) this._again = true;
    else if (this._live) this._ask();
  }

  _answered(request, answer) {
    if (request !== this._asking) return;
    this._asking = null;
    const { ok, error, recovered, epoch = null, offset = null, events, report_lag: lag } = answer ?? {};
    const isPlaced = (epoch ?? offset) === null || isPosition(epoch, offset);
    if (!ok || !isPlaced || itemsOf(events, "event").length !== events?.length) return this._refused(error);
    this._clear();
    this._live = true;
    this._pause = 0;
    this._heardAt = Date.now();
    if (lag) import("./celery-realtime-lag.js").then((lags) => lags.reportLag(this._socket, lag), () => {});
    if (recovered && epoch && epoch === this.epoch) {
      let place = offset - events.length;
      for (const item of events) this._place({ ...item, offset: ++place });
      if (!this._began) this._load(answer);
    } else if (!this._began || epoch !== this.epoch || offset > this.offset) {
      this._early.push(...this._waiting.values());
      this._waiting.clear();
      this._foreign.add(this.epoch);
      if (epoch !== this.epoch) this._past = new Map([...this._past, ...this._shown.jobs].slice(-this._options.maxJobs));
      Object.assign(this, { epoch, offset });
      this._load(answer);
    }
    for (const item of this._early.splice(0)) this._sort(item);
    if (!this._live) return;
    if (this.state !== "subscribed") this._set({ state: "subscribed", error: null });
    this._check();
    this._watchHole();
    if (this._again) this._askAgain();
    else this._readOn();
  }

  _readOn() {
    const { projectId: project_id, _next: from, _options: { ackTimeout, maxJobs, also } } = this;
    if (!from || !this._live || this._asking || this._shown.jobs.size >= maxJobs) return;
    const reading = (this._reading = { recent: [] });
    this._after("page", ackTimeout, this._ask);
    this._socket.emit("read_jobs", { project_id, from, ...also }, (page) => {
      if (page?.ok && page.epoch === this.epoch) reading.page = page;
      this._takePage();
    });
  }

  _takePage() {
    const { page, recent } = this._reading ?? {};
    if (!page?.offset || page.offset > this.offset) return;
    this._clear(["page"]);
    this._reading = null;
    this._next = page.next;
    const jobs = this._byId(page.jobs, "job_id");
    for (const item of recent) if (!(item.offset <= page.offset) && jobs.has(item.data.job_id)) this._deliver(item, jobs);
    this._set({ jobs: new Map([...jobs, ...this._shown.jobs, ...jobs]) }, { reason: "snapshot", recovered: true });
    this._readOn();
  }

  _refused(reason) {
    const error = reason?.code ? reason : null;
    const passing = !error || /^(unavailable|too_many_requests)$/.test(error.code);
    this._live = false;
    this._clear();
    this._pause = Math.min(this._pause * 2 || this._options.firstPause, this._options.longestPause);
    if (passing) this._after("retry", this._pause * (0.5 + Math.random() / 2), this._ask);
    this._set({ state: passing ? "stale" : "refused", error });
    for (const user of this._share.users) user._askAgain(); // it may be out of the room
  }

  _load(answer) {
    this._began = true;
    this._next = answer.next;
    const jobs = this._byId(answer.jobs, "job_id"), workflows = this._byId(answer.workflows, "root_id");
    this._set({ jobs, workflows, jobsTotal: answer.jobs_total ?? jobs.size }, { reason: "snapshot", recovered: false });
  }

  _byId(list, id) {
    const entries = itemsOf(list, id).filter((entry) => !precedes(entry, this._past.get(entry[id])));
    return new Map(entries.map((entry) => [entry[id], Object.freeze(entry)]));
  }

  _hear = (event, data) => {
    for (const item of event === "agent_batch" ? itemsOf(data, "event") : [{ event, data }]) {
      const { event, data } = item;
      const mark = OURS[event] ? data : data?._realtime ?? item;
      if (mark?.project_id !== this.projectId || mark.replayed) continue;
      if (event === "agent_resync") this._askAgain();
      else this._sort({ event, data, epoch: mark.epoch, offset: mark.offset });
    }
  };

  _sort(item) {
    const { epoch, offset } = item;
    const numbered = isPosition(epoch, offset), foreign = numbered && epoch !== this.epoch;
    if (!foreign) this._heardAt = Date.now();
    if (!this._began || (foreign && this._asking)) {
      if (this._early.push(item) > MAX_HELD) this._early.shift();
      return;
    }
    if (numbered && !foreign) return this._place(item);
    if (foreign && !this._foreign.has(epoch)) this._askAgain();
    if (foreign) this._foreign.add(epoch);
    if (!numbered || this.epoch === null) this._deliver({ ...item, loose: true });
  }

  _place(item) {
    if (item.offset <= this.offset) return;
    this._waiting.set(item.offset, item);
    for (let next; (next = this._waiting.get(this.offset + 1)); ) {
      this._waiting.delete(++this.offset);
      this._clear(["gap"]);
      this._deliver(next);
    }
    this._takePage();
    this._watchHole();
  }

  _watchHole() {
    const { size } = this._waiting;
    if (size > MAX_HELD) {
      this._waiting.clear();
      this._askAgain();
    } else if (size && this._live && !this._asking && !this._timers.gap) {
      this._after("gap", this._options.gapTimeout, this._ask);
    }
  }

  _deliver(item, page) {
    const { event, data, loose } = item;
    if (!OURS[event]) return this._call(this._options.onEvent, event, data, this);
    const [callback, kind, id, merge] = OURS[event];
    const key = data?.[id];
    if (typeof key !== "string") return;
    if (kind === "jobs" && this._reading?.recent.push(item) > MAX_HELD) this._reading = null;
    const current = page ?? this._shown[kind], known = current.get(key);
    const before = !data.set && (data.new_run || (!loose && isFinal(known))) ? undefined : known;
    if (data.set ? !known : loose && before && isOld(before, data)) return;
    if (precedes(data, this._past.get(key))) return;
    const { epoch, offset, new_run, ...entry } = merge(before, data);
    if (before?.metadata) entry.metadata ??= before.metadata;
    const entries = page || this._unseen.has(current) ? current : new Map(current);
    entries.set(key, Object.freeze(entry));
    if (page) return;
    this._unseen.add(entries);
    if (entries.size > this._options.maxJobs) forgetOne(entries, key);
    this._set({ [kind]: entries }, { reason: kind, key });
    this._call(this._options[callback], data, this);
  }

  _set(changes, why = { reason: "state" }) {
    this._shown = Object.freeze({ ...this._shown, ...changes });
    this._call(this._options.onChange, this, why);
    for (const listener of [...this._listeners]) this._call(listener);
  }

  // A failing callback costs no event.
  _call(callback, ...args) {
    if (this._closed) return;
    try {
      callback?.(...args);
    } catch (error) {
      queueMicrotask(() => { throw error; });
    }
  }

  _after(name, delay, act) {
    this._clear([name]);
    this._timers[name] = setTimeout(act, delay);
  }

  _clear(names = Object.keys(this._timers)) {
    for (const name of names) {
      clearTimeout(this._timers[name]);
      delete this._timers[name];
    }
  }
}

// Subscribing waits for leaving, which may be handled last.
function left(share) {
  share.leaving = null;
  for (const user of share.users) user._ask();
}

function shareOf(socket, projectId) {
  if (!shares.has(socket)) shares.set(socket, { __proto__: null });
  return (shares.get(socket)[projectId] ??= { users: new Set() });
}

function forgetOne(entries, newest) {
  for (const [key, { status, queued, running }] of entries) {
    if (key !== newest && (status ? RANK[status] > 1 : !(queued + running))) return entries.delete(key);
  }
}

// Without offsets: is a job further by now?
function isOld(job, data) {
  if (data.attempt !== job.attempt) return data.attempt < job.attempt;
  const rank = RANK[data.status], was = RANK[job.status];
  if (!data.status) return was > 1 || (!data.stages && data.progress < job.progress);
  if (job.state === "LOST" && data.state !== "LOST") return !rank;
  const isSame = data.worker === job.worker;
  if (!rank && data.worker) return !isSame || was !== 1;
  return rank < was || (rank === was && (rank !== 1 || isSame));
}

// Has it ended for good?
function isFinal(job) {
  return RANK[job?.status] > 1 && !/^(LOST|REVOKED|FAILUREnot run: )/.test(job.state + job.error);
}

// The history has lost the end: is this older?
function precedes(data, end) {
  return isFinal(end) && !(RANK[data.status] > 1) && data.attempt <= end.attempt && data.timestamp <= end.timestamp;
}

const itemsOf = (list, id) => (Array.isArray(list) ? list : []).filter((item) => typeof item?.[id] === "string");
const isPosition = (epoch, offset) => typeof epoch === "string" && Number.isInteger(offset);

function merged(job, { progress = null, message = null, current = null, total = null, stage, stages, stalled }) {
  stalled = job.status === "running" && !!stalled;
  return { ...job, progress, message, current, total, ...(stages && { stage, stages }), stalled };
}

function withStatus(job, status) {
  const anew = RANK[status.status] <= !!(job?.worker && RANK[job.status]);
  return merged(status, !anew && job?.attempt === status.attempt && job);
}

function withProgress(job, update) {
  const blank = { event: "status_change", status: "running", state: "STARTED", result: null, error: null, worker: null };
  return merged(job && job.attempt === update.attempt ? job : { ...job, ...update, ...blank }, update);
}

function withMetadata(job, { set, deleted = [] }) {
  const metadata = { ...job.metadata, ...set };
  for (const key of deleted) delete metadata[key];
  return { ...job, metadata };
}
