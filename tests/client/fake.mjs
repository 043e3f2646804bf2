// A socket without a network, and a server that keeps a history and is as unreliable as it is told to be.

export class FakeSocket {
  constructor(answer = () => {}) {
    this.connected = false;
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
    for (const handler of this._handlers.get("connect") ?? []) handler();
  }

  disconnect() {
    this.connected = false;
    for (const handler of this._handlers.get("disconnect") ?? []) handler("transport close");
  }

  hear(name, data) {
    if (!this.connected) return;
    for (const handler of [...this._any]) handler(name, structuredClone(data));
  }
}

// A generator of numbers that is the same for the same seed (mulberry32).
export function randomFrom(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const STATES = { PENDING: "queued", STARTED: "running", SUCCESS: "success" };

// A project's history, one subscriber's room, and a network that drops, delays, doubles and reorders.
export class FakeServer {
  constructor(random, { kept = 50, drop = 0.05, double = 0.05, delay = 400 } = {}) {
    Object.assign(this, { random, kept, drop, double, delay });
    this.calm = false;
    this.epoch = "e1";
    this.offset = 0;
    this.events = [];
    this.jobs = new Map();
    this.joined = false;
    this.epochs = 1;
    this.socket = new FakeSocket((name, data, acknowledge) => this._asked(name, data, acknowledge));
  }

  _asked(name, data, acknowledge) {
    if (name !== "subscribe_project") return acknowledge?.({ ok: true });
    const connection = this.connection;
    this._later(() => {
      if (connection !== this.connection) return;
      this.joined = true;
      const answer = this.calm || this.random() > 0.1 ? this._answer(data.since) : this._refuse();
      this._later(() => { if (connection === this.connection && (this.calm || this.random() > 0.05)) acknowledge(answer); });
    });
  }

  _refuse() {
    this.joined = false;
    return { ok: false, error: { code: "unavailable", message: "later" } };
  }

  _answer(since) {
    const behind = since && since.epoch === this.epoch ? this.offset - since.offset : Infinity;
    const recovered = behind <= this.kept;
    const jobs = [...this.jobs.values()];
    const events = recovered && behind > 0 ? this.events.slice(-behind) : [];
    return structuredClone({ ok: true, project_id: "p", epoch: this.epoch, offset: this.offset, recovered, jobs, events });
  }

  connect() { this.connection = {}; this.socket.connect(); }
  disconnect() { this.connection = {}; this.joined = false; this.socket.disconnect(); }

  // Lose everything: a new epoch.
  forget() {
    this.epoch = `e${++this.epochs}`;
    this.offset = 0;
    this.events = [];
    this.jobs.clear();
  }

  tell(number) {
    const job_id = `job-${Math.floor(this.random() * 5)}`;
    const state = ["PENDING", "STARTED", "SUCCESS"][Math.floor(this.random() * 3)];
    const offset = ++this.offset;
    const plain = this.random() < 0.5;
    const status = { event: "status_change", job_id, project_id: "p", status: STATES[state], state, attempt: number };
    const mark = { job_id: null, project_id: "p", epoch: this.epoch, offset };
    const data = plain ? { number, _realtime: mark } : { ...status, number, epoch: this.epoch, offset };
    const event = plain ? "step" : "agent_status";
    if (!plain) this.jobs.set(job_id, { ...status, number, progress: null, message: null, current: null, total: null, stalled: false });
    this.events.push({ event, data });
    this._send(event, data);
    return { epoch: this.epoch, offset };
  }

  _send(event, data) {
    const connection = this.connection;
    if (!this.joined || (!this.calm && this.random() < this.drop)) return;
    const times = !this.calm && this.random() < this.double ? 2 : 1;
    for (let time = 0; time < times; time++) {
      this._later(() => { if (connection === this.connection) this.socket.hear(event, data); });
    }
  }

  _later(act) { setTimeout(act, this.calm ? 1 : this.random() * this.delay); }
}
