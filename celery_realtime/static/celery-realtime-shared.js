// One connection for all tabs of a browser: one tab has the socket, the others talk to it, and when it goes another one
// takes its place. What a tab is given looks like a socket of socket.io-client (v4), as far as this package uses one.

const SUBSCRIBE = /^subscribe_(project|job)$/, UNSUBSCRIBE = /^unsubscribe_(project|job)$/;
const textOf = (id) => (id === undefined || id === null ? null : String(id));

// open() makes the socket, in the tab that has it. Where the browser has no locks, each tab has a socket of its own.
export function shareSocket(open, { name = "celery-realtime" } = {}) {
  if (!globalThis.BroadcastChannel || !globalThis.navigator?.locks) return open();
  return new Shared(open, name);
}

class Shared {
  connected = false;
  id = undefined;
  active = true;
  _handlers = new Map();
  _any = new Set();
  _acks = new Map();
  _last = 0;

  constructor(open, name) {
    this._open = open;
    this._name = name;
    this._join();
    this._watchPage("add");
  }

  _join() {
    this._tab = crypto.randomUUID();
    this._channel = new BroadcastChannel(this._name);
    this._channel.onmessage = ({ data }) => this._hear(data);
    const leaving = (this._leaving = new AbortController()), { signal } = leaving;
    const until = new Promise((end) => signal.addEventListener("abort", end));
    // Who holds this lock lives: the browser releases it when the tab is gone, however that happens.
    navigator.locks.request(`${this._name} ${this._tab}`, () => until);
    navigator.locks.request(this._name, { signal }, () => (signal.aborted ? null : this._lead(until))).catch((error) => {
      if (!signal.aborted) throw error;
    });
    this._post({ kind: "hello" });
  }

  _part(reason) {
    if (this._leaving.signal.aborted) return;
    this._tell({ kind: "bye", from: this._tab });
    this._lose(reason);
    this._leader?.close();
    this._leader = null;
    this._channel.close();
    this._leaving.abort();
  }

  // A page that the browser keeps for whoever goes back to it would keep the others from its place, and have lost it.
  _hidden = () => this._part("transport close");
  _shown = ({ persisted }) => persisted && this._leaving.signal.aborted && this._join();

  _watchPage(add) {
    globalThis[`${add}EventListener`]?.("pagehide", this._hidden);
    globalThis[`${add}EventListener`]?.("pageshow", this._shown);
  }

  on(event, handler) {
    if (!this._handlers.has(event)) this._handlers.set(event, new Set());
    this._handlers.get(event).add(handler);
    return this;
  }

  off(event, handler) {
    this._handlers.get(event)?.delete(handler);
    return this;
  }

  onAny(handler) { this._any.add(handler); return this; }
  offAny(handler) { this._any.delete(handler); return this; }

  // Like a volatile packet, it is dropped without a connection: whoever is told of one asks anew.
  emit(event, ...args) {
    const ack = typeof args.at(-1) === "function" ? args.pop() : null;
    if (!this.connected) return this;
    const number = ++this._last;
    if (ack) this._acks.set(number, ack);
    const request = { kind: "emit", from: this._tab, number, event, args, wants: ack !== null };
    if (this._leader) this._leader.take(request);
    else this._post(request);
    return this;
  }

  // One that is closed has given up its place among the tabs, and its channel.
  connect() {
    if (!this._leaving.signal.aborted) this._tell({ kind: "connect" });
    return this;
  }

  disconnect() {
    if (this._closed) return this;
    this._closed = true;
    this.active = false;
    this._watchPage("remove");
    this._part("io client disconnect");
    return this;
  }

  close() { return this.disconnect(); }

  _post(message) { this._channel.postMessage(message); }

  _tell(message) {
    if (this._leader) this._leader.take(message);
    else this._post(message);
  }

  // Until this tab is closed, or gone.
  _lead(until) {
    this._lose("transport close");
    this._leader = new Leader(this._open(), this._name, this._tab, (message) => {
      this._post(message);
      this._hear(message);
    });
    return until;
  }

  _hear(message) {
    const { kind, to, from, number, event, args } = message;
    if (this._closed || (to !== undefined && to !== this._tab)) return;
    if (kind === "state") this._follow(message);
    else if (kind === "event") this._happened(event, args);
    else if (kind === "answer") {
      const ack = this._acks.get(number);
      this._acks.delete(number);
      ack?.(...args);
    } else if (this._leader && from !== this._tab) this._leader.take(message);
  }

  _follow({ connected, id, reason }) {
    if (this.connected && (!connected || id !== this.id)) this._lose(reason ?? "transport close");
    if (!connected || this.connected) return;
    this.connected = true;
    this.id = id;
    this._call("connect");
  }

  _lose(reason) {
    this._acks.clear();
    if (!this.connected) return;
    this.connected = false;
    this.id = undefined;
    this._call("disconnect", reason);
  }

  _happened(event, args) {
    for (const handler of [...this._any]) handler(event, ...args);
    this._call(event, ...args);
  }

  _call(event, ...args) {
    for (const handler of [...(this._handlers.get(event) ?? [])]) handler(...args);
  }
}

// In the tab that has the socket.
class Leader {
  _uses = []; // { tab, project, job }: which tab follows which project, or job; its project is null until the server has said it

  constructor(socket, name, tab, tell) {
    Object.assign(this, { _socket: socket, _name: name, _tab: tab, _tell: tell, _tabs: new Set([tab]) });
    socket.on("connect", () => this._state());
    socket.on("disconnect", (reason) => {
      this._uses = [];
      this._state(reason);
    });
    socket.on("connect_error", ({ message, data }) => this._event("connect_error", [{ message, data }]));
    socket.onAny((event, ...args) => this._event(event, args));
    this._state();
  }

  close() { this._socket.disconnect(); }

  take({ kind, from, number, event, args, wants }) {
    if (kind === "hello") this._state();
    if (kind === "connect") this._socket.connect();
    if (kind === "bye") this._left(from);
    if (kind === "emit") this._send(from, event, args, (...answer) =>
      wants && this._tell({ kind: "answer", to: from, number, args: answer }));
  }

  _state(reason) {
    const { connected, id } = this._socket;
    this._tell({ kind: "state", connected, id, reason });
  }

  _event(event, args) { this._tell({ kind: "event", event, args }); }

  _send(tab, event, args, answer) {
    this._know(tab);
    if (!this._socket.connected) return;
    const use = { tab, project: textOf(args[0]?.project_id), job: event.endsWith("_job") ? textOf(args[0]?.job_id) : null };
    if (UNSUBSCRIBE.test(event)) return this._leave(use, answer);
    if (SUBSCRIBE.test(event)) return this._enter(use, event, args, answer);
    this._socket.emit(event, ...args, answer);
  }

  _enter(use, event, args, answer) {
    this._note(use);
    const { id } = this._socket;
    this._socket.emit(event, ...args, (said, ...rest) => {
      if (said?.ok && use.project === null && this._socket.id === id) this._place(use, said.project_id);
      answer(said, ...rest);
    });
  }

  // Its tab may have left it before the server said which project it is of.
  _place(use, project) {
    use.project = project;
    if (this._uses.includes(use)) this._note(use);
    else this._drop([use], () => {});
  }

  _note(use) {
    const { tab, project, job } = use;
    this._uses = this._uses.filter((one) => one.tab !== tab || one.project !== project || one.job !== job);
    this._uses.push(use);
  }

  // Without a project, all jobs of an id are left.
  _leave({ tab, project, job }, answer) {
    const mine = this._uses.filter((use) => use.tab === tab && use.job === job && (use.project === project || (job && !project)));
    this._uses = this._uses.filter((use) => !mine.includes(use));
    this._drop(mine.length ? mine : [{ project, job }], answer);
  }

  // Leave what no tab uses any more. What has no project yet may be of any.
  _drop(uses, answer) {
    const isUsed = ({ project, job }) => this._uses.some((use) =>
      use.job === job && (use.project === project || (job && (!project || !use.project))));
    const due = uses.filter((use) => !isUsed(use));
    let left = due.length;
    if (!left) return answer({ ok: true });
    for (const { project, job } of due) {
      const request = { ...(job && { job_id: job }), ...(project && { project_id: project }) };
      this._socket.emit(`unsubscribe_${job ? "job" : "project"}`, request, (said) => --left || answer(said));
    }
  }

  // A tab that is gone without a word has let its lock go.
  _know(tab) {
    if (this._tabs.has(tab)) return;
    this._tabs.add(tab);
    navigator.locks.request(`${this._name} ${tab}`, () => this._left(tab));
  }

  _left(tab) {
    this._tabs.delete(tab);
    const mine = this._uses.filter((use) => use.tab === tab);
    this._uses = this._uses.filter((use) => use.tab !== tab);
    if (this._socket.connected) this._drop(mine, () => {});
  }
}
