// A socket without a network, and a server with a history on a network of configurable unreliability.

export class FakeSocket {
  constructor(answer = () => {}) {
    this.connected = false;
    this._connections = 0;
    this.sent = []; // [event, data]
    this._answer = answer;
    this._handlers = new Map();
    this._any = new Set();
  }

  on(name, handler) {
    this._handlers.set(name, [...(this._handlers.get(name) ?? []), handler]);
    return this;
  }

  once(name, handler) {
    const once = (...args) => { this.off(name, once); handler(...args); };
    return this.on(name, once);
  }

  off(name, handler) {
    this._handlers.set(name, (this._handlers.get(name) ?? []).filter((one) => one !== handler));
    return this;
  }

  onAny(handler) { this._any.add(handler); return this; }
  offAny(handler) { this._any.delete(handler); return this; }

  emit(name, data, acknowledge) {
    this.sent.push([name, structuredClone(data)]);
    this._answer(name, structuredClone(data), acknowledge);
    return this;
  }

  get handlers() { return [...this._handlers.values()].flat().length + this._any.size; }

  connect() {
    this.connected = true;
    this.id = `sid-${++this._connections}`;
    this.tell("connect");
  }

  disconnect(reason = "transport close") {
    this.connected = false;
    this.id = undefined;
    this.tell("disconnect", reason);
  }

  // A connection has failed.
  fail(error) { this.tell("connect_error", error); }

  // Call the handlers of one event.
  tell(name, ...args) {
    for (const handler of this._handlers.get(name) ?? []) handler(...args);
  }

  hear(name, data) {
    if (!this.connected) return;
    for (const handler of [...this._any]) handler(name, structuredClone(data));
  }
}

// A random number generator that repeats for the same seed (mulberry32).
export function randomFrom(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const STATES = { PENDING: "queued", STARTED: "running", SUCCESS: "success" };
const NO_PROGRESS = { progress: null, message: null, current: null, total: null, stalled: false };

// A project's history, one socket's rooms, and a network that drops, delays, doubles and reorders events.
export class FakeServer {
  constructor(random, { kept = 50, drop = 0.05, double = 0.05, delay = 400, pageSize = 1000 } = {}) {
    Object.assign(this, { random, kept, drop, double, delay, pageSize });
    this.calm = false;
    this.epoch = "e1";
    this.epochs = 1;
    this.sent = new Map(); // epoch and offset -> event
    this._empty();
    this.room = null; // "plain" or "batch"
    this.unrecovered = 0; // subscriptions whose missed events the history no longer had
    this.socket = new FakeSocket((name, data, acknowledge) => this._asked(name, data, acknowledge));
  }

  _empty() {
    this.offset = 0;
    this.events = []; // as answers have them
    this.batch = [];
    this.jobs = new Map();
    this.changedAt = new Map(); // job -> offset of its latest event
    this.workflows = new Map();
  }

  // Requests are answered side by side, so that one may overtake another.
  _asked(name, data, acknowledge) {
    this._onThisConnection(() => {
      const answers = {
        subscribe_project: () => this._subscribe(data),
        read_jobs: () => this._readOn(data),
        unsubscribe_project: () => this._unsubscribe(),
      };
      const answer = answers[name]();
      if (this._isLost(0.05)) return;
      this._onThisConnection(() => acknowledge(answer));
    });
  }

  _subscribe({ since, batch }) {
    this.room = batch ? "batch" : "plain";
    if (!this._isLost(0.1)) return this._answer(since);
    this.room = null;
    return { ok: false, error: { code: "unavailable", message: "later" } };
  }

  _unsubscribe() {
    this.room = null;
    return { ok: true };
  }

  _answer(since) {
    const { epoch, offset } = this;
    const behind = since?.epoch === epoch ? offset - since.offset : Infinity;
    const recovered = behind <= this.kept;
    if (since && !recovered) this.unrecovered++;
    const events = recovered && behind > 0 ? this.events.slice(-behind) : [];
    const workflows = [...this.workflows.values()];
    const page = this._page({ since: offset, below: Infinity }, true);
    return structuredClone({ ok: true, project_id: "p", epoch, offset, recovered, ...page, workflows, events });
  }

  _readOn({ from }) {
    if (this._isLost(0.1)) return { ok: false, error: { code: "unavailable", message: "later" } };
    const { epoch, offset } = this;
    return structuredClone({ ok: true, project_id: "p", epoch, offset, ...this._page(JSON.parse(from)) });
  }

  // The latest first, then what has changed since the first page.
  _page({ since, below, above }, isFirst = false) {
    const order = [...this.changedAt].sort(([, one], [, other]) => other - one);
    const take = (places) => [places.slice(0, this.pageSize), places.length > this.pageSize];
    const answer = (places, next) => ({
      jobs: places.map(([id]) => this.jobs.get(id)), next: next && JSON.stringify({ since, ...next }),
    });
    if (above === undefined) {
      const [places, isMore] = take(order.filter(([, at]) => at < (below ?? Infinity)));
      if (isMore) return answer(places, { below: places.at(-1)[1] });
      return answer(places, isFirst ? null : { above: since });
    }
    const [places, isMore] = take(order.reverse().filter(([, at]) => at > above));
    return answer(places, isMore ? { above: places.at(-1)[1] } : null);
  }

  connect() {
    this.connection = {};
    this.socket.connect();
  }

  disconnect() {
    this.connection = {};
    this.room = null;
    this.socket.disconnect();
  }

  // Lose everything: a new epoch.
  forget() {
    this.epoch = `e${++this.epochs}`;
    this._empty();
  }

  // Report that more events happened than could be passed on.
  resync() {
    this._send("agent_resync", { project_id: "p", epoch: this.epoch, offset: this.offset });
  }

  tell(number) {
    const mark = { epoch: this.epoch, offset: ++this.offset };
    const dice = this.random();
    if (dice < 0.3) this._publish("step", { number, _realtime: { job_id: null, project_id: "p", ...mark } });
    else if (dice < 0.35) this._publish("volume", number, { job_id: null, project_id: "p", ...mark });
    else if (dice < 0.45) this._publish("agent_workflow", { ...this._workflow(number), ...mark });
    else if (dice < 0.7 && this._unended().length) this._publish("agent_progress", { ...this._progress(number), ...mark });
    else this._publish("agent_status", { ...this._status(number), ...mark });
  }

  _one(list) { return list[Math.floor(this.random() * list.length)]; }

  _workflow(progress) {
    const flow = { root_id: this._one(["r1", "r2"]), project_id: "p", progress };
    this.workflows.set(flow.root_id, flow);
    return { event: "workflow_update", ...flow };
  }

  // Of another attempt, or of a newer run.
  _status(number) {
    const [job_id, state] = [this._one(["a", "b", "c", "d", "e"]), this._one(Object.keys(STATES))];
    const attempt = (this.random() < 0.3 && this.jobs.get(job_id)?.attempt) || number;
    const status = { event: "status_change", job_id, project_id: "p", status: STATES[state], state, attempt };
    this.jobs.set(job_id, { ...status, ...NO_PROGRESS, queue: "q" });
    this.changedAt.set(job_id, this.offset);
    return { ...status, queue: "q", ...(attempt === number ? {} : { new_run: true }) };
  }

  // A history takes no progress of a job that has ended.
  _unended() { return [...this.jobs.values()].filter(({ status }) => status !== "success"); }

  _progress(progress) {
    const { job_id, attempt } = this._one(this._unended());
    const done = { progress, message: `at ${progress}`, current: null, total: null };
    Object.assign(this.jobs.get(job_id), done);
    this.changedAt.set(job_id, this.offset);
    return { event: "progress_update", job_id, project_id: "p", attempt, ...done };
  }

  _publish(event, data, mark = {}) {
    this.events.push({ epoch: this.epoch, offset: this.offset, event, data });
    this.sent.set(`${this.epoch} ${this.offset}`, { event, data });
    if (this.room === "plain") return this._send(event, data);
    this.batch.push({ ...mark, event, data });
    if (this.calm || this.random() < 0.5) this._send("agent_batch", this.batch.splice(0));
  }

  _send(event, data) {
    if (!this.room || this._isLost(this.drop)) return;
    for (let times = this._isLost(this.double) ? 2 : 1; times > 0; times--) {
      this._onThisConnection(() => this.socket.hear(event, data));
    }
  }

  _isLost(chance) { return !this.calm && this.random() < chance; }

  _onThisConnection(act) {
    const connection = this.connection;
    const run = () => { if (connection === this.connection) act(); };
    setTimeout(run, this.calm ? 1 : this.random() * this.delay);
  }
}
