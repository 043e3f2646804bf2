// Follow every job of a project over a socket of socket.io-client (v4): each event once, and in order.
// Events are numbered within an epoch, and overtake each other: a hole is given a moment to fill, then asked for.

const RANK = { queued: 0, running: 1, success: 2, error: 2 };
const OURS = {
  __proto__: null,
  agent_status: ["onStatus", "jobs", "job_id", withStatus],
  agent_progress: ["onProgress", "jobs", "job_id", withProgress],
  agent_workflow: ["onWorkflow", "workflows", "root_id", (_, { event, timestamp, ...flow }) => flow],
  agent_resync: [],
  agent_hidden: [],
};
const MAX_WAITING = 2000;
const DEFAULTS = {
  ackTimeout: 5000, gapTimeout: 250, checkInterval: 30000, firstPause: 500, longestPause: 10000, maxJobs: 2000,
};

const shares = new WeakMap(); // socket -> project -> the subscriptions that share its room

export function subscribeProject(socket, projectId, options = {}) {
  return new ProjectSubscription(socket, String(projectId), options);
}

class ProjectSubscription {
  _snapshot = Object.freeze({ state: "subscribing", error: null, jobs: new Map(), workflows: new Map(), jobsTotal: 0 });
  _unseen = new Set(); // maps that nobody else has: they may change
  _listeners = new Set();
  _timers = {};
  _waiting = new Map(); // offset -> an event above a hole
  _early = []; // what the next answer decides on
  _strange = new Set(); // epochs asked about, or over

  constructor(socket, projectId, options) {
    this.projectId = projectId;
    this.epoch = options.since?.epoch ?? null;
    this.offset = options.since?.offset ?? null;
    this._options = { ...options };
    for (const name in DEFAULTS) this._options[name] ??= DEFAULTS[name];
    this._socket = socket;
    this._share = shareOf(socket, projectId);
    this._share.users.add(this);
    this._reset();
    this._listen("on", "onAny", "addEventListener");
    if (socket.connected) this._ask();
  }

  get jobs() { return this.getSnapshot().jobs; }
  get workflows() { return this.getSnapshot().workflows; }
  get state() { return this._snapshot.state; }
  get error() { return this._snapshot.error; }

  // React's useSyncExternalStore calls these two without the object.
  subscribe = (listener) => {
    this._listeners.add(listener);
    return () => this._listeners.delete(listener);
  };

  getSnapshot = () => {
    this._unseen.clear();
    return this._snapshot;
  };

  close() {
    if (this._closed) return;
    this._closed = true;
    this._reset();
    this._listen("off", "offAny", "removeEventListener");
    this._share.users.delete(this);
    if (this._share.users.size === 0 && this._socket.connected) this._share.leave(this._socket, this.projectId);
  }

  _handlers = {
    connect: () => this._ask(),
    disconnect: () => {
      this._reset();
      if (this.state !== "refused") this._set({ state: "stale" });
    },
    connect_error: (error) => { if (error.data?.code) this._refused(error.data); },
  };

  _listen(on, onAny, add) {
    for (const name in this._handlers) this._socket[on](name, this._handlers[name]);
    this._socket[onAny](this._listener);
    for (const name of ["visibilitychange", "online", "pageshow"]) globalThis[add]?.(name, this._check);
  }

  _reset() {
    this._asking = null; // the request that is under way
    this._live = false; // there has been an answer on this connection, and all is well
    this._pause = 0;
    this._clear();
  }

  // Neither sleep nor a lost last event leaves a hole to see.
  _check = () => {
    if (!this._live || this._asking) return;
    const { checkInterval } = this._options;
    if (Date.now() - this._heardAt > checkInterval / 2) this._ask();
    else this._after("check", checkInterval * (0.75 + Math.random() / 2), this._check);
  };

  _ask() {
    if (this._closed || !this._socket.connected) return;
    this._clear();
    const { ackTimeout, batch } = this._options;
    if (this._share.leaving?.id === this._socket.id) return this._after("retry", ackTimeout, () => this._share.left());
    const request = (this._asking = { project_id: this.projectId });
    this._again = false;
    if (this.epoch !== null) request.since = { epoch: this.epoch, offset: this.offset };
    if (batch) request.batch = true;
    this._after("ack", ackTimeout, () => this._told(request));
    this._socket.emit("subscribe_project", request, (answer) => this._told(request, answer));
  }

  // Unless it is subscribed, it asks anyway, or in vain.
  _askAgain() {
    if (this._asking) this._again = true;
    else if (this._live) this._ask();
  }

  _told(request, answer) {
    if (request !== this._asking) return;
    this._asking = null;
    if (!answer?.ok) return this._refused(answer?.error ?? null);
    this._clear();
    this._live = true;
    this._pause = 0;
    this._heardAt = Date.now();
    this._take(answer);
    if (!this._live) return; // a callback has ended it
    if (this.state !== "subscribed") this._set({ state: "subscribed", error: null });
    this._check();
    this._waitForHole();
    if (this._again) this._askAgain();
  }

  _refused(error) {
    const passing = !error || ["unavailable", "too_many_requests"].includes(error.code);
    this._live = false;
    this._clear();
    this._pause = Math.min(this._pause * 2 || this._options.firstPause, this._options.longestPause);
    if (passing) this._after("retry", this._pause * (0.5 + Math.random() / 2), () => this._ask());
    this._set({ state: passing ? "stale" : "refused", error });
    for (const one of this._share.users) one._askAgain(); // the socket may be out of the room
  }

  _take(answer) {
    const { epoch, offset, events } = answer;
    if (answer.recovered && epoch === this.epoch) {
      events.forEach((item, index) => this._place({ ...item, offset: offset - events.length + 1 + index }));
      if (!this._began) this._load(answer); // the events began with a handle
    } else if (!this._began || epoch !== this.epoch || offset > this.offset) {
      this._early.push(...this._waiting.values());
      this._waiting.clear();
      this._strange.add(this.epoch);
      Object.assign(this, { epoch, offset });
      this._load(answer);
    }
    for (const item of this._early.splice(0)) this._sort(item);
  }

  _load(answer) {
    this._began = true;
    const jobs = byId(answer.jobs, "job_id");
    const workflows = byId(answer.workflows ?? [], "root_id");
    this._set({ jobs, workflows, jobsTotal: answer.jobs_total ?? jobs.size }, { reason: "snapshot", recovered: false });
  }

  _listener = (event, data) => this._heard({ event, data });

  _heard(item) {
    const { event, data } = item;
    if (event === "agent_batch") return data.forEach((one) => this._heard(one));
    const mark = OURS[event] ? data : data?._realtime ?? item;
    if (mark?.project_id !== this.projectId || mark.replayed) return;
    if (event === "agent_resync") this._askAgain();
    else this._sort({ event, data, epoch: mark.epoch, offset: mark.offset });
  }

  _sort(item) {
    const { epoch, offset } = item;
    const numbered = Number.isInteger(offset);
    const foreign = numbered && epoch !== this.epoch;
    if (!foreign) this._heardAt = Date.now();
    if (!this._began || (foreign && this._asking)) {
      if (this._early.push(item) > MAX_WAITING) this._early.shift();
      return;
    }
    if (numbered && !foreign) return this._place(item);
    if (foreign && !this._strange.has(epoch)) this._askAgain();
    if (foreign) this._strange.add(epoch);
    if (!numbered || this.epoch === null) this._deliver(item, true);
  }

  _place(item) {
    if (item.offset <= this.offset) return;
    this._waiting.set(item.offset, item);
    for (let next; (next = this._waiting.get(this.offset + 1)); ) {
      this._waiting.delete(++this.offset);
      this._clear(["gap"]); // the next hole has its own time
      this._deliver(next);
    }
    this._waitForHole();
  }

  _waitForHole() {
    const { size } = this._waiting;
    if (size > MAX_WAITING) {
      this._waiting.clear();
      this._askAgain();
    } else if (size && this._live && !this._asking) {
      this._timers.gap ?? this._after("gap", this._options.gapTimeout, () => this._ask());
    }
  }

  _deliver({ event, data }, unnumbered) {
    if (!OURS[event]) return this._call(this._options.onEvent, event, data, this);
    const [callback, kind, id, merge] = OURS[event];
    if (!kind) return;
    const before = this._snapshot[kind].get(data[id]);
    if (unnumbered && before && isOld(before, event, data)) return;
    this._change(kind, data[id], merge(before, data));
    this._call(this._options[callback], data, this);
  }

  _change(kind, key, value) {
    const { epoch, offset, ...kept } = value;
    const before = this._snapshot[kind];
    const entries = this._unseen.has(before) ? before : new Map(before);
    this._unseen.add(entries.set(key, Object.freeze(kept)));
    if (entries.size > this._options.maxJobs) forgetOne(entries, key);
    this._set({ [kind]: entries }, { reason: kind, key });
  }

  _set(changes, why = { reason: "state" }) {
    this._snapshot = Object.freeze({ ...this._snapshot, ...changes });
    this._call(this._options.onChange, this, why);
    for (const listener of [...this._listeners]) this._call(listener);
  }

  // A mistake in a callback must not cost the page an event.
  _call(callback, ...args) {
    if (this._closed || !callback) return;
    try {
      callback(...args);
    } catch (error) {
      queueMicrotask(() => { throw error; });
    }
  }

  _after(name, delay, act) {
    clearTimeout(this._timers[name]);
    this._timers[name] = setTimeout(act, delay);
  }

  _clear(names = Object.keys(this._timers)) {
    for (const name of names) {
      clearTimeout(this._timers[name]);
      delete this._timers[name];
    }
  }
}

// Who subscribes while the socket leaves has to wait: leaving could overtake it.
class Share {
  users = new Set();

  leave(socket, projectId) {
    const leaving = (this.leaving = { id: socket.id });
    socket.emit("unsubscribe_project", { project_id: projectId }, () => this.leaving === leaving && this.left());
  }

  left() {
    this.leaving = null;
    for (const one of this.users) one._ask();
  }
}

function shareOf(socket, projectId) {
  if (!shares.has(socket)) shares.set(socket, new Map());
  const projects = shares.get(socket);
  return projects.get(projectId) ?? projects.set(projectId, new Share()).get(projectId);
}

// Pages stay open for weeks.
function forgetOne(entries, but) {
  const isOver = (one) => (one.status ? RANK[one.status] > 1 : one.queued + one.running === 0);
  for (const [key, one] of entries) if (key !== but && isOver(one)) return entries.delete(key);
}

// Without offsets: is more known of a job already?
function isOld(job, name, data) {
  if (data.attempt !== job.attempt) return data.attempt < job.attempt;
  if (name === "agent_progress") return RANK[job.status] > 1 || data.progress < (job.progress ?? 0);
  if (job.state === "LOST" && data.state !== "LOST") return data.status === "queued";
  const climbs = RANK[data.status] - RANK[job.status];
  return climbs < 0 || (climbs === 0 && (data.status !== "running" || data.worker === job.worker));
}

const byId = (list, id) => new Map(list.map((one) => [one[id], Object.freeze(one)]));

function progressOf(source) {
  return Object.fromEntries(["progress", "message", "current", "total"].map((name) => [name, source?.[name] ?? null]));
}

function withStatus(job, status) {
  const same = job?.attempt === status.attempt ? job : null;
  return { ...status, ...progressOf(same), stalled: status.status === "running" && Boolean(same?.stalled) };
}

function withProgress(job, update) {
  const { event, stalled, ...told } = update;
  const blank = { event: "status_change", status: "running", state: "STARTED", result: null, error: null };
  const base = job?.attempt === update.attempt ? job : { ...job, ...told, ...blank };
  return { ...base, ...progressOf(update), stalled: base.status === "running" && Boolean(stalled) };
}
