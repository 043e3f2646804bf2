// Follow one job and what it says bit by bit, over a socket of socket.io-client (v4): each character or item once, in order.

import { attend } from "./celery-realtime-lifecycle.js";

const DEFAULTS = { ackTimeout: 5000, gapTimeout: 250, firstPause: 500, longestPause: 10000 };
const CALLBACKS = { __proto__: null, agent_status: "onStatus", agent_progress: "onProgress", agent_metadata: "onMetadata" };
const MAX_HELD = 2000;
const PASSING = ["unavailable", "too_many_requests"];
const shares = new WeakMap(); // socket -> job -> { users, leaving }; of all projects, which may use an id each

export function subscribeJob(socket, jobId, options = {}) {
  return new JobSubscription(socket, String(jobId), options);
}

export const cancelJob = (socket, jobId, options) => ask("cancel_job", socket, jobId, options);

// The server waits for the broker, which may take long.
export const rerunJob = (socket, jobId, options) => ask("rerun_job", socket, jobId, { ackTimeout: 15000, ...options });

// Resolves to the server's answer. What the socket would send after its next connection only is not sent at all.
function ask(event, socket, jobId, { projectId, ackTimeout = 5000 } = {}) {
  const failed = (message) => ({ ok: false, error: { code: "unavailable", message } });
  if (!socket?.connected) return Promise.resolve(failed("not connected"));
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(failed("the server has not answered")), ackTimeout);
    socket.emit(event, requestOf(jobId, projectId), (answer) => { clearTimeout(timer); resolve(answer); });
  });
}

const requestOf = (jobId, project) => ({ job_id: String(jobId), ...(project === undefined ? {} : { project_id: String(project) }) });

class JobSubscription {
  _shown = Object.freeze({ state: "subscribing", error: null, job: null, streams: new Map(), liveOnly: false });
  _listeners = new Set();
  _timers = {};
  _early = []; // events that came before the answer that is awaited
  _held = new Map(); // by stream, chunks behind a hole
  _reading = new Set(); // streams that are being read
  _epoch = null;
  _offset = null;

  constructor(socket, jobId, options) {
    this.jobId = jobId;
    this._socket = socket;
    this._options = { ...DEFAULTS, ...options };
    this._reset();
    attend(this, true);
  }

  get state() { return this._shown.state; }
  get error() { return this._shown.error; }
  get job() { return this._shown.job; }
  get streams() { return this._shown.streams; }
  get liveOnly() { return this._shown.liveOnly; }

  // React calls these two without the object.
  subscribe = (listener) => {
    this._listeners.add(listener);
    return () => this._listeners.delete(listener);
  };

  getSnapshot = () => this._shown;

  cancel() { return cancelJob(this._socket, this.jobId, this._options); }

  update(options) {
    Object.assign(this._options, options);
    attend(this);
  }

  close() {
    this._leave();
    this._closed = true;
    this._life.end();
  }

  _enter() {
    this._here = true;
    this._share = shareOf(this._socket, this.jobId);
    this._share.users.add(this);
    this._listen("on");
    this._ask();
  }

  _leave() {
    if (!this._here) return;
    this._here = false;
    this._reset();
    this._listen("off");
    this._share.users.delete(this);
    this._depart(this._project);
  }

  // The server takes a request without a project as one to leave all of the id.
  _depart(project) {
    const { _share: share, _socket: socket, jobId } = this, { users } = share;
    if (!socket.connected) return forget(socket, jobId, share);
    if (project === undefined ? users.size : [...users].some((user) => (user._project ?? project) === project)) return;
    const leaving = (share.leaving = { id: socket.id });
    socket.emit("unsubscribe_job", requestOf(jobId, project), () => share.leaving === leaving && left(socket, jobId, share));
  }

  // Undefined as long as the server has not said which it is.
  get _project() {
    const { projectId } = this._options;
    return projectId === undefined ? this._projectId : String(projectId);
  }

  _request(more) { return { ...requestOf(this.jobId, this._options.projectId), ...more }; }

  _handlers = {
    connect: () => this._ask(),
    disconnect: () => {
      this._reset();
      if (this.state !== "refused") this._set({ state: "stale" });
    },
    connect_error: ({ data }) => { if (data?.code) this._refused(data); },
  };

  _listen(on) {
    for (const name in this._handlers) this._socket[on](name, this._handlers[name]);
    this._socket[`${on}Any`](this._listener);
  }

  _reset() {
    this._asking = null;
    this._live = false;
    this._pause = 0;
    this._early = [];
    this._held.clear();
    this._reading.clear();
    this._clear();
  }

  _ask = () => {
    if (!this._here || !this._socket.connected) return;
    this._clear();
    this._due = false;
    this._reading.clear();
    const { _share: share, _socket: socket, jobId, _options: { ackTimeout } } = this;
    if (share.leaving?.id === socket.id) return this._after("retry", ackTimeout, () => left(socket, jobId, share));
    const { tail } = this._options, { id } = socket;
    const request = (this._asking = this._request(tail === undefined ? {} : { tail }));
    const answered = (answer) => this._answered(request, answer);
    this._after("ack", ackTimeout, answered);
    socket.emit("subscribe_job", request, (answer) => {
      if (!this._here && answer?.ok && this._project === undefined && socket.id === id) this._depart(answer.project_id);
      answered(answer);
    });
  };

  _answered(request, answer) {
    if (request !== this._asking) return;
    this._asking = null;
    const { ok, error, epoch = null, offset = null, jobs = [], streams = [] } = answer ?? {};
    if (!ok) return this._refused(error);
    this._clear();
    this._live = this._began = true;
    this._pause = 0;
    this._projectId = answer.project_id;
    const isNewer = epoch !== this._epoch || offset === null || offset >= this._offset;
    if (isNewer) Object.assign(this, { _epoch: epoch, _offset: offset });
    const changes = { state: "subscribed", error: null, liveOnly: !!answer.live_only };
    this._set(isNewer && jobs[0] ? { ...changes, job: Object.freeze({ ...jobs[0] }) } : changes);
    this._held.clear();
    for (const stream of streams) this._load(stream);
    for (const [event, data] of this._early.splice(0)) if (data.project_id === this._projectId) this._take(event, data);
    if (this._due) this._ask();
  }

  _refused(reason) {
    const error = reason?.code ? reason : null;
    const passing = !error || PASSING.includes(error.code);
    this._live = false;
    this._clear();
    this._pause = Math.min(this._pause * 2 || this._options.firstPause, this._options.longestPause);
    if (passing) this._after("retry", this._pause * (0.5 + Math.random() / 2), this._ask);
    this._set({ state: passing ? "stale" : "refused", error });
  }

  _listener = (name, payload) => {
    const items = name === "agent_batch" && Array.isArray(payload) ? payload : [{ event: name, data: payload }];
    const project = this._asking ? this._asking.project_id : this._project; // the answer says which it is now
    for (const { event, data } of items) {
      const isOfProject = !!data && (project ?? data.project_id) === data.project_id;
      const isOurs = isOfProject && data.job_id === this.jobId;
      // What is on its way may be older than what was lost. Before a retry nothing is: that has it all.
      if (event === "agent_resync" && isOfProject && this._asking) this._due = true;
      else if (event === "agent_resync" && isOfProject && this._live) this._ask();
      else if (isOurs && !data.replayed && this._asking) this._early.push([event, data]) > MAX_HELD && this._early.shift();
      else if (isOurs && !data.replayed && this._live) this._take(event, data);
    }
  };

  _take(event, data) {
    if (event === "agent_stream") return this._takeChunk(data);
    if (!CALLBACKS[event] || (event === "agent_metadata" && !this.job)) return;
    if (data.epoch && data.epoch === this._epoch && data.offset <= this._offset) return;
    if (data.epoch) Object.assign(this, { _epoch: data.epoch, _offset: data.offset });
    const { epoch, offset, new_run, ...entry } = data;
    this._set({ job: Object.freeze(merged(event, data.new_run ? null : this.job, entry)) });
    this._call(this._options[CALLBACKS[event]], data, this);
  }

  // What a server has of a stream, from `start` up to `position`.
  _load({ stream: name, start, position, end = position, value, ...rest }) {
    const isLast = position >= end;
    const chunk = { ...rest, stream: name, position: start, chunk: value, end: position }; // it may not be shown as it is
    this._add({ ...chunk, state: isLast ? rest.state : "open" }, true);
    if (isLast) this._release(name);
    else this._read(name);
  }

  _takeChunk(chunk) {
    const { stream: name, generation, position } = chunk;
    const known = this.streams.get(name);
    if (generation < known?.generation) return;
    if (generation > (known?.generation ?? 0)) this._held.delete(name);
    const at = generation === known?.generation ? known.position : 0;
    if (position <= at && !this._reading.has(name)) {
      this._add(chunk);
      return this._release(name);
    }
    const held = this._held.get(name) ?? [];
    if (held.push(chunk) > MAX_HELD) held.shift();
    this._held.set(name, held);
    if (!this._timers[`gap ${name}`]) this._after(`gap ${name}`, this._options.gapTimeout, () => this._read(name));
  }

  // Read on what is missing before the chunks that are held.
  _read(name) {
    if (!this._live || this._asking || this._reading.has(name)) return;
    this._clear([`gap ${name}`]);
    const { generation = 0, position = 0 } = this.streams.get(name) ?? {};
    this._reading.add(name);
    const { id } = this._socket;
    const answered = (answer) => {
      if (this._socket.id !== id || !this._reading.delete(name)) return;
      this._clear([`read ${name}`]);
      if (answer?.ok) this._load(answer);
      else if (!answer || PASSING.includes(answer.error?.code) && !this.liveOnly) this._after(`gap ${name}`, this._options.firstPause, () => this._read(name));
      else this._release(name, true);
    };
    this._after(`read ${name}`, this._options.ackTimeout, answered);
    this._socket.emit("read_stream", this._request({ stream: name, from: position, generation }), answered);
  }

  // Take what is held of a stream and follows; all of it if nothing can be read.
  _release(name, all = false) {
    const held = (this._held.get(name) ?? []).sort((one, other) => one.generation - other.generation || one.position - other.position);
    this._held.delete(name);
    for (const [place, chunk] of held.entries()) {
      const known = this.streams.get(name);
      const at = chunk.generation === known?.generation ? known.position : 0;
      if (chunk.position > at && !all) {
        this._held.set(name, held.slice(place));
        if (!this._timers[`gap ${name}`]) this._after(`gap ${name}`, this._options.gapTimeout, () => this._read(name));
        return;
      }
      this._add(chunk, true);
    }
    this._clear([`gap ${name}`]);
  }

  // Add a chunk. One that begins behind what there is stands for itself, as what was before has been let go.
  _add({ stream: name, kind, attempt, generation, position, chunk, state, end }, leaps = false) {
    const known = this.streams.get(name);
    if (generation < known?.generation) return;
    const isSame = generation === known?.generation;
    let { start, value, position: at } = isSame ? known : { start: 0, value: kind === "text" ? "" : [], position: 0 };
    let rest = chunk;
    if (position > at) {
      if (!leaps) return;
      [start, value] = [position, chunk];
    } else {
      rest = behind(chunk, at - position);
      value = kind === "text" ? value + rest : rest.length ? [...value, ...rest] : value;
    }
    const reached = end ?? position + lengthOf(chunk);
    const isNews = reached > at || (state !== known?.state && (!lengthOf(chunk) || (leaps && state !== "open")));
    if (isSame && !isNews) return;
    const stream = Object.freeze({ name, kind, attempt, generation, start, position: Math.max(at, reached), value, state });
    this._set({ streams: new Map(this.streams).set(name, stream) });
    this._call(this._options.onChunk, stream, rest, this);
  }

  _set(changes) {
    this._shown = Object.freeze({ ...this._shown, ...changes });
    this._call(this._options.onChange, this);
    for (const listener of [...this._listeners]) this._call(listener);
  }

  // A failing callback must not cost a chunk.
  _call(callback, ...args) {
    if (this._closed || !callback) return;
    try {
      callback(...args);
    } catch (error) {
      queueMicrotask(() => { throw error; });
    }
  }

  _after(name, delay, act) {
    this._clear([name]);
    this._timers[name] = setTimeout(() => { delete this._timers[name]; act(); }, delay);
  }

  _clear(names = Object.keys(this._timers)) {
    for (const name of names) {
      clearTimeout(this._timers[name]);
      delete this._timers[name];
    }
  }
}

// Subscribing waits for leaving, which may be handled last.
function left(socket, jobId, share) {
  share.leaving = null;
  for (const user of share.users) user._ask();
  forget(socket, jobId, share);
}

function shareOf(socket, jobId) {
  const jobs = shares.get(socket) ?? new Map();
  const share = jobs.get(jobId) ?? { users: new Set() };
  shares.set(socket, jobs.set(jobId, share));
  return share;
}

// A page may follow many jobs, one after the other.
function forget(socket, jobId, share) {
  const jobs = shares.get(socket);
  if (!share.users.size && jobs.get(jobId) === share) jobs.delete(jobId);
}

// Positions count characters of Unicode: some are two of a string's units.
const isPlain = (text) => !/[\ud800-\udfff]/.test(text);
const lengthOf = (chunk) => (typeof chunk !== "string" || isPlain(chunk) ? chunk.length : [...chunk].length);

function behind(chunk, count) {
  if (count <= 0) return chunk;
  return typeof chunk !== "string" || isPlain(chunk) ? chunk.slice(count) : [...chunk].slice(count).join("");
}

// The job after an event. Its metadata goes on over attempts, until it is published again.
function merged(event, job, { set, deleted = [], ...entry }) {
  if (event === "agent_metadata") {
    const metadata = { ...job.metadata, ...set };
    for (const key of deleted) delete metadata[key];
    return { ...job, metadata };
  }
  const blank = { progress: null, message: null, current: null, total: null, status: "running", state: "STARTED" };
  const before = job?.attempt === entry.attempt ? job : job?.metadata && { metadata: job.metadata };
  return { ...blank, ...before, ...entry, event: "status_change" };
}
