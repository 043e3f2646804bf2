// One view of a project or a job for all that show it: subscribe and getSnapshot, for any framework or none.

import { subscribeProject } from "./celery-realtime-filter.js";
import { attend } from "./celery-realtime-lifecycle.js";
import { subscribeJob } from "./celery-realtime-streams.js";

export { cancelJob, rerunJob } from "./celery-realtime-streams.js";

const CALLBACKS = ["onStatus", "onProgress", "onMetadata", "onWorkflow", "onEvent", "onChunk"];
const NOTHING = Object.freeze([]);
const NONE = new Map();
const AWAY = ["idle", "paused", "closed"];
const never = () => () => {};

const PROJECT = kindOf(subscribeProject, { jobs: NONE, workflows: NONE, jobsTotal: 0, hasMore: false, loadMore() {} });
const JOB = kindOf(subscribeJob, { job: null, streams: NONE, liveOnly: false });

const shared = new WeakMap(); // socket -> key -> Source

export const projectStore = (socket, projectId, options) => handleOf("project", PROJECT, socket, projectId, options);
export const jobStore = (socket, jobId, options) => handleOf("job", JOB, socket, jobId, options);

export const streamStore = (socket, jobId, name, options) =>
  selected(jobStore(socket, jobId, options), ({ status, error, streams }) => {
    const stream = streams.get(name) ?? null, value = stream?.value;
    return { status, error, stream, text: typeof value === "string" ? value : "", items: Array.isArray(value) ? value : NOTHING };
  });

// Of a store, what `select` makes of each snapshot. It changes when that does, one level deep; also from `before` on.
export function selected(store, select, before) {
  const reader = (read) => {
    let from, value = before;
    return () => {
      const snapshot = read();
      if (snapshot === from) return value;
      const next = select((from = snapshot));
      return (value = isAlike(value, next) ? value : next);
    };
  };
  return Object.freeze({
    ...store, getSnapshot: reader(store.getSnapshot), getServerSnapshot: reader(store.getServerSnapshot),
  });
}

// What two lists of options have to have in common for one subscription.
export function keyOf(options = {}) {
  const plain = Object.entries(options).filter(([name, value]) => typeof value !== "function" && name !== "enabled");
  return JSON.stringify(plain.filter(([, value]) => value !== undefined).sort());
}

function kindOf(open, empty) {
  const blank = (status) => Object.freeze({ status, error: null, ...empty });
  return { open, subscribing: blank("subscribing"), idle: blank("idle") };
}

// One user of a subscription. Nothing is opened before it has a listener.
function handleOf(name, kind, socket, id, { enabled = true, ...options } = {}) {
  if (socket) checkSocket(socket, name);
  const isIdle = !enabled || (id ?? "") === "";
  const blank = isIdle ? kind.idle : kind.subscribing;
  const key = `${name} ${keyOf(options)} ${id}`;
  const listeners = new Set();
  let source;

  const find = () => source ?? (socket && !isIdle ? shared.get(socket)?.get(key) : undefined);
  const enter = (user) => {
    const one = find() ?? new Source(kind, socket, String(id), options, key);
    one.enter(user);
    return one;
  };
  const user = { callbacks: options, told() { for (const { listener } of [...listeners]) call(listener); } };
  const leave = () => {
    source?.leave(user);
    source = undefined;
  };

  return Object.freeze({
    subscribe: isIdle || !socket ? never : (listener) => {
      const entry = { listener };
      listeners.add(entry);
      if (listeners.size === 1) source = enter(user);
      return () => { if (listeners.delete(entry) && !listeners.size) leave(); };
    },
    getSnapshot: () => find()?.snapshot ?? blank,
    getServerSnapshot: () => blank,
    pending: () => (isIdle || !socket ? null : pendingOf(find(), enter)),
    setCallbacks: (callbacks) => { user.callbacks = callbacks; },
    close: () => { listeners.clear(); leave(); },
  });
}

// Resolves when there is an answer; null when there is one. Who waits keeps the subscription open.
function pendingOf(source, enter) {
  if (source && source.snapshot.status !== "subscribing") return null;
  if (source?.pending) return source.pending;
  let opened, resolve;
  const waiting = {
    callbacks: {},
    told() {
      if (!opened || opened.snapshot.status === "subscribing") return;
      opened.pending = null;
      opened.leave(waiting);
      resolve();
    },
  };
  const pending = new Promise((done) => { resolve = done; });
  opened = enter(waiting);
  opened.pending = pending;
  waiting.told();
  return opened.pending;
}

// A subscription, open while somebody uses it and for a moment after.
class Source {
  _users = new Set();
  _shown = {}; // the subscription's own snapshot, of which ours was made
  pending = null;

  constructor(kind, socket, id, options, key) {
    const { throttle = 16, linger = 1000, ...others } = options;
    Object.assign(this, { snapshot: kind.subscribing, _kind: kind, _socket: socket, _id: id, _key: key });
    Object.assign(this, { _throttle: throttle, _linger: linger });
    this._options = { ...others, attend };
    for (const name of CALLBACKS) this._options[name] = (...args) => this._tell(name, args);
    this._options.onChange = () => this._changed();
    if (!shared.has(socket)) shared.set(socket, new Map());
    shared.get(socket).set(key, this);
  }

  enter(user) {
    clearTimeout(this._leaving);
    this._users.add(user);
    if (this._users.size > 1 || this._opened) return;
    this._opened = true;
    this._live = this._kind.open(this._socket, this._id, this._options);
    this._changed();
  }

  leave(user) {
    this._users.delete(user);
    if (!this._users.size) this._leaving = setTimeout(this._end, this._linger);
  }

  _end = () => {
    clearTimeout(this._timer);
    this._timer = {};
    this._live?.close();
    const sources = shared.get(this._socket);
    if (sources.get(this._key) === this) sources.delete(this._key);
  };

  // Many events make one change: what is shown is read when it is due.
  _changed() {
    if (!this._live) return;
    if (AWAY.includes(this._live.state)) return this._show();
    if (this._timer) return;
    const pause = this._throttle - (Date.now() - this._shownAt);
    if (pause > 0) {
      this._timer = setTimeout(this._show, pause);
      return;
    }
    const due = (this._timer = {});
    queueMicrotask(() => this._timer === due && this._show());
  }

  _show = () => {
    clearTimeout(this._timer);
    this._timer = null;
    this._shownAt = Date.now();
    const live = this._live.getSnapshot(), { state: status, ...next } = live;
    for (const name in next) next[name] = kept(this.snapshot[name], next[name], this._shown[name]);
    this._shown = live;
    this._set({ status, ...next });
  };

  _set(changes) {
    const next = { ...this.snapshot, ...changes };
    if (isAlike(this.snapshot, next)) return;
    this.snapshot = Object.freeze(next);
    for (const user of [...this._users]) user.told();
  }

  _tell(name, args) {
    for (const { callbacks } of [...this._users]) call(callbacks[name], ...args);
  }
}

function checkSocket(socket, name) {
  if (["on", "off", "onAny", "offAny", "emit"].every((method) => typeof socket[method] === "function")) return;
  const hint = typeof socket.then === "function" ? "a promise: await it first" : Object.prototype.toString.call(socket);
  throw new TypeError(`a ${name} is followed over a socket of socket.io-client, as createSocket() returns, not ${hint}`);
}

// A failing callback costs nobody else anything.
function call(callback, ...args) {
  try {
    callback?.(...args);
  } catch (error) {
    queueMicrotask(() => { throw error; });
  }
}

// What is new, with our objects for whatever says the same. `before` is what ours was made of.
function kept(ours, theirs, before) {
  if (theirs === before) return ours;
  if (!(theirs instanceof Map)) return isSame(ours, theirs) ? ours : theirs;
  const rows = new Map(), old = ours.keys();
  let isOld = ours.size === theirs.size;
  for (const [id, row] of theirs) {
    rows.set(id, kept(ours.get(id), row, before?.get(id)));
    isOld &&= old.next().value === id && ours.get(id) === rows.get(id);
  }
  return isOld ? ours : rows;
}

function isSame(one, other, compare = isSame) {
  if (Object.is(one, other)) return true;
  if (!one || !other || typeof one !== "object" || typeof other !== "object") return false;
  if (Object.getPrototypeOf(one) !== Object.getPrototypeOf(other) || one instanceof Map) return false;
  if (one.length !== other.length) return false;
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => Object.hasOwn(other, name) && compare(one[name], other[name]));
}

const isAlike = (one, other) => isSame(one, other, Object.is);
