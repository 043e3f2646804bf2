// <celery-job>, <celery-project>, <celery-realtime>: jobs on a page, live. What jobs say is inserted as text, never as markup.

import { List } from "./celery-realtime-list.js";
import { adopt, button, h, isOver, put, rankOf, Row, set } from "./celery-realtime-row.js";
import { jobStore, projectStore } from "./celery-realtime-store.js";
import { texts, wordsFor } from "./celery-realtime-texts.js";
import { arranged, countsOf, endedOf, firstOf, fold, timeOf, workflowOf } from "./celery-realtime-workflows.js";

export { texts };

const ATTRIBUTES = "job-id project src path token token-url client theme lang texts cancellable rerun dismissible collapsed streams status task label filter max-jobs".split(" ");
const FLAGS = ["cancellable", "rerun", "dismissible", "collapsed"];
const KEPT = 5000; // jobs, at least
const ANNOUNCE_AFTER = 2000, ASK_TIMEOUT = 10000, LONGEST_REST = 500; // milliseconds

const connected = new Set(); // elements on a page
const ends = new Map(); // jobs whose end is to be announced
let connect, ticking, announcing;

const listOf = (text) => text?.split(/[\s,]+/).filter(Boolean) ?? [];

// One sentence for all ends of a moment, on whatever elements.
function announce() {
  announcing = null;
  const host = [...connected].find((one) => one._say);
  const over = [...ends.values()], failed = over.filter((job) => job.status === "error").length, done = over.length - failed;
  ends.clear();
  if (!host || !over.length) return;
  const { words } = host;
  if (over.length === 1) return host._say(`${words.name(over[0])}: ${words.status(over[0])}`);
  const both = [done && words.say("done", { n: done }), failed && words.say(done ? "failedToo" : "failed", { n: failed })];
  host._say(both.filter(Boolean).join(", "));
}

// What all elements have: attributes that are properties too, and a socket.
class CeleryElement extends (globalThis.HTMLElement ?? class {}) {
  static observedAttributes = ATTRIBUTES;

  get socket() { return this._socket ?? this._line?.socket ?? null; }
  set socket(socket) { this._socket = socket; this._later(); }
  get token() { return this._token ?? this.getAttribute("token"); }
  set token(token) { this._token = token; this._later(); }

  connectedCallback() {
    // What was assigned before the element was defined hides its accessors.
    for (const name of Object.keys(this).filter((one) => one in this.constructor.prototype)) {
      const value = this[name];
      delete this[name];
      this[name] = value;
    }
    connected.add(this);
    ticking ??= setInterval(() => { for (const one of connected) one._tick?.(); }, 1000);
    this._later();
  }

  disconnectedCallback() { this._later(); }
  attributeChangedCallback() { this._later(); }

  // Many changes, or a move within the page, are one.
  _later() {
    if (this._isDue) return;
    this._isDue = true;
    queueMicrotask(() => {
      this._isDue = false;
      if (this.isConnected) return this._sync();
      connected.delete(this);
      this._leave();
      this._useLine(null);
      if (!connected.size) ticking = clearInterval(ticking);
    });
  }

  _useLine(line) {
    if (line !== this._line) this._line?.leave(this);
    this._line = line;
  }

  _leave() { this._at = null; }

  // Its own, one of its attributes, or that of whoever answers; else one of the page's own server.
  _findSocket() {
    const place = [this.src, this.path, this.token, this.tokenUrl, this.client], isPlaced = place.some((value) => value != null);
    let socket = this._socket;
    if (socket === undefined && !isPlaced) socket = this._tell("celery-socket", { socket: undefined }).detail.socket;
    if (socket !== undefined) this._useLine(null);
    else if (!isPlaced && document.readyState !== "complete") addEventListener("load", () => this._later(), { once: true });
    else if (connect) this._useLine(connect(place, this));
    else import("./celery-realtime-connect.js").then((module) => { connect = module.connect; this._later(); });
    return socket ?? this._line?.socket ?? null;
  }

  _tell(name, detail, cancelable = false) {
    const event = new CustomEvent(name, { detail, cancelable, bubbles: true, composed: true });
    this.dispatchEvent(event);
    return event;
  }
}

for (const name of ATTRIBUTES.filter((one) => !["token", "lang", "texts"].includes(one))) {
  const property = name.replace(/-(.)/g, (_, letter) => letter.toUpperCase()), isFlag = FLAGS.includes(name);
  Object.defineProperty(CeleryElement.prototype, property, {
    configurable: true, enumerable: true,
    get() { return isFlag ? this.hasAttribute(name) : this.getAttribute(name); },
    set(value) { value == null || value === false ? this.removeAttribute(name) : this.setAttribute(name, isFlag ? "" : value); },
  });
}

// A socket for all elements within.
class CeleryRealtime extends CeleryElement {
  constructor() {
    super();
    this.attachShadow({ mode: "open" }).append(h("slot"));
    this.addEventListener("celery-socket", (event) => {
      if (event.target === this) return;
      event.stopPropagation();
      event.detail.socket = this._at ?? null;
    });
  }

  _sync() {
    adopt(this, ":host { display: contents }");
    const socket = this._findSocket();
    if (socket === this._at) return;
    this._at = socket;
    for (const one of connected) if (one !== this) one._later();
  }
}

// An element that shows something of a socket.
class CeleryView extends CeleryElement {
  _asked = new Set(); // ids of jobs that the server was asked to cancel, or to run again
  _may = { cancel: true, rerun: true }; // as far as is known
  _notes = new Map(); // job id -> what was answered
  _version = 0; // of all but the jobs that rows show
  _live = new Map(); // job id -> the job, unless it had ended; null where its end is not shown yet

  constructor() {
    super();
    this._state = h("p", "state");
    this._spoken = h("p", "unseen");
    this._empty = h("slot");
    this._empty.name = "empty";
    this._emptyBox = h("div", "empty", this._empty);
    this._spoken.role = "status";
    this.attachShadow({ mode: "open" }).append(this._state, this._emptyBox, this._spoken);
  }

  get texts() {
    if (this._texts || !this.hasAttribute("texts")) return this._texts ?? null;
    try {
      return JSON.parse(this.getAttribute("texts"));
    } catch (error) {
      console.error(`<${this.localName}>: the attribute "texts" has to be an object in JSON, such as {"stop": "Halt"}: ${error.message}`);
    }
    return null;
  }

  set texts(texts) { this._texts = texts; this._later(); }

  _sync() {
    const socket = this._findSocket(), key = this._key();
    adopt(this);
    this.words = wordsFor(this);
    if (this._at && (socket !== this._at.socket || key !== this._at.key)) this._leave();
    if (!this._at && socket && key) {
      const store = this._open(socket, { onStatus: (status) => isOver(status) ? this._ended(status) : this._live.set(status.job_id, status) });
      this._at = { socket, key, store, leave: store.subscribe(() => this._changed()) };
    }
    this._arranged = null;
    this._renew();
  }

  _leave() {
    this._at?.leave();
    this._at = null;
    for (const one of [this._asked, this._notes, this._live]) one.clear();
    this._may = { cancel: true, rerun: true };
  }

  _renew() {
    this._version++;
    this._changed();
  }

  // Drawing takes a part of the time, however much changes.
  _changed() {
    if (this._isDrawing) return;
    this._isDrawing = true;
    setTimeout(() => requestAnimationFrame(() => {
      this._isDrawing = false;
      if (!this._at && !this.isConnected) return;
      const begin = performance.now();
      this._draw(this._at?.store.getSnapshot() ?? {});
      this._rest = Math.min(LONGEST_REST, 8 * (performance.now() - begin));
    }), this._rest > 50 ? this._rest : 0);
  }

  _drawState({ status = "subscribing", error }, isEmpty, text) {
    const { words } = this, failure = error ?? this._line?.error, state = failure && status !== "stale" ? "refused" : status;
    put(this._state, state === "subscribed" ? "" : words.say(state, { why: failure?.message }));
    this._emptyBox.hidden = !isEmpty || state !== "subscribed";
    if (this._empty.textContent !== text) this._empty.textContent = text;
    if (state !== this._shownState) this._tell("celery-state", { state, error: failure ?? null });
    this._shownState = state;
  }

  // An end may come as an event, or be there after a gap.
  _note(job) {
    const { job_id: id } = job, known = this._live.get(id);
    if (!isOver(job)) return known === null || this._live.set(id, job);
    if (known) this._ended(job);
    this._live.delete(id);
  }

  _ended(job) {
    this._live.set(job.job_id, null);
    for (const one of [this._asked, this._notes]) one.delete(job.job_id);
    ends.set(job.job_id, job);
    announcing ??= setTimeout(announce, ANNOUNCE_AFTER);
    this._tell("celery-job-end", { job });
  }

  _say(text) { this._spoken.textContent = text; }

  // Ask the server to cancel a job, or to run it again, unless the page keeps that to itself.
  async _order(order, job) {
    const { job_id: id } = job, isRerun = order === "rerun";
    if (this._asked.has(id) || this._tell(`celery-${order}`, { job }, true).defaultPrevented) return;
    const { words, _at: at } = this;
    this._asked.add(id);
    this._notes.delete(id);
    this._renew();
    const answer = await this._ask(`${order}_job`, job);
    if (this._at !== at) return;
    const { ok, how, cancel, error } = answer, isForbidden = error?.code === "forbidden";
    const key = !ok ? (isForbidden ? "forbidden" : "failing") : cancel === "too_late" ? cancel : how === "unconfirmed" ? how : isRerun ? "rerunDone" : "";
    if (isForbidden) this._may[order] = false;
    if (key) this._asked.delete(id);
    const text = key && words.say(key, { why: error?.message });
    if (key && (isRerun ? !ok : this._live.get(id))) this._notes.set(id, text);
    if (key) this._say(text);
    this._tell("celery-answer", { job, order, answer });
    this._renew();
  }

  // Resolves to an answer. What the socket would send after its next connection only is not sent at all.
  _ask(name, { job_id, project_id }) {
    const socket = this._at?.socket, failed = (key) => ({ ok: false, error: { code: "unavailable", message: this.words.say(key) } });
    return new Promise((resolve) => {
      if (!socket?.connected) return resolve(failed("offline"));
      setTimeout(() => resolve(failed("silence")), ASK_TIMEOUT);
      socket.emit(name, { job_id, project_id }, resolve);
    });
  }
}

class CeleryJob extends CeleryView {
  constructor() {
    super();
    this._row = new Row(this, "div", () => { this.collapsed = !this.collapsed; });
    this._state.after(this._row.root);
  }

  _key() { return this.jobId && `${this.jobId} ${this.project}`; }
  _open(socket, options) { return jobStore(socket, this.jobId, { projectId: this.project ?? undefined, ...options }); }

  _leave() {
    super._leave();
    this._row.close();
  }

  _tick() { if (!this._row.root.hidden) this._row.tick(); }

  _draw(snapshot) {
    const job = snapshot.status === "refused" ? null : snapshot.job, { root } = this._row;
    root.hidden = !job;
    if (job) this._note(job);
    if (job) this._row.update(job, !this.collapsed);
    this._drawState(snapshot, !job, this.words.say("unknown"));
  }
}

class CeleryProject extends CeleryView {
  _records = new Map(); // job id -> { key, job, rank, at, text }
  _flows = new Map(); // root id -> { key, root, part, members, rank, at }
  _dismissed = new Map(); // when jobs ended, by their ids
  _folded = new Set(); // ids of jobs to be opened whose workflow is not known yet
  _further = 0; // jobs that were asked for beyond max-jobs

  constructor() {
    super();
    this._sums = ["running", "queued", "success", "error"].map((status) => Object.assign(button("sum", () => this._choose(status)), { value: status }));
    this._group = h("div", "sums", ...this._sums);
    this._group.role = "group";
    this._search = h("input", "filter");
    this._search.type = "search";
    this._search.addEventListener("input", () => { this.filter = this._search.value || null; });
    this._count = h("span", "count");
    this._clear = button("clear", () => this.dismiss([...this._flows.values()].flatMap(endedOf)));
    this._restore = button("restore", () => { this._dismissed.clear(); this._rearrange(); });
    this._toolbar = h("div", "toolbar", this._group, this._search, this._count, this._clear, this._restore);
    this._list = new List(this, (entry) => (entry.members ? workflowOf(entry, this.words, this._records, this._workflows) : entry.job));
    this._none = h("p", "empty");
    this._more = button("more", () => this._showMore());
    this._state.before(this._toolbar);
    this._state.after(this._list.root, this._more, this._none);
  }

  connectedCallback() {
    super.connectedCallback();
    this._list.watch();
  }

  _key() { return this.project && JSON.stringify([this.project, this.task, this.label]); }

  _open(socket, options) {
    const { task, label, _step: step } = this, filter = task || label ? { task: listOf(task), label: label || null } : undefined;
    return projectStore(socket, this.project, { ...(step && { limit: step, maxJobs: Math.max(step, KEPT) }), filter, ...options });
  }

  _tick() { this._list.tick(); }

  _leave() {
    super._leave();
    if (!this.isConnected) this._list.unwatch();
    for (const one of [this._list, this._records, this._flows, this._dismissed, this._folded]) one.clear();
    this._jobs = null;
    this._further = 0;
  }

  attributeChangedCallback(name) {
    if (name === "max-jobs") this._further = 0;
    this._later();
  }

  // How many jobs are shown at first, and how many more each time; 0 for all.
  get _step() { return Math.max(0, Math.floor(+this.maxJobs)) || 0; }
  get _most() { return this._step ? this._step + this._further : Infinity; }

  _showMore() {
    const { _step: step, _records: { size } } = this;
    this._further = (this._left ? this._further : Math.max(this._further, size - step)) + step;
    this._rearrange();
  }

  _rearrange() {
    this._arranged = null;
    this._changed();
  }

  // Show more of a job, and unfold the workflow that it is in, now or once it is there.
  openJob(id) {
    this._list.opened.add(id);
    this._folded.add(id);
    this._rearrange();
  }

  _unfold(id) {
    this._folded.delete(id);
    this._list.opened.add(`workflow ${this._records.get(id).job.root_id}`);
  }

  // Take ended jobs out of sight here, until they begin again. The server is told nothing.
  dismiss(ids) {
    const jobs = ids.map((id) => this._records.get(id)?.job).filter((job) => job && isOver(job));
    if (!jobs.length || this._tell("celery-dismiss", { jobs }, true).defaultPrevented) return;
    for (const job of jobs) this._dismissed.set(job.job_id, timeOf(job));
    this._say(this.words.say("dismissed", { n: jobs.length }));
    this._rearrange();
  }

  // What was not dismissed.
  _listed() { return [...this._records.values()].filter(({ key }) => !this._dismissed.has(key)); }

  _choose(status) {
    const chosen = listOf(this.status), others = chosen.filter((one) => one !== status);
    this.status = (others.length < chosen.length ? others : [...chosen, status]).join(" ") || null;
  }

  _draw(snapshot) {
    const { jobs, jobsTotal = 0, status, workflows, hasMore } = snapshot, { _most: most } = this;
    this._workflows = workflows;
    this._take(jobs && status !== "refused" ? jobs : new Map());
    if (hasMore && most < Infinity && most > jobs.size) snapshot.loadMore(most - jobs.size);
    const filters = JSON.stringify([this.status, this.filter, most, [...this._list.opened]]);
    if (filters !== this._arranged) this._list.arrange(this._arrange());
    this._arranged = filters;
    this._list.show();
    const listed = this._listed();
    this._drawToolbar(listed, Math.max(this._records.size, jobsTotal) - this._dismissed.size, hasMore);
    this._drawMore(hasMore);
    this._drawState(snapshot, !listed.length, this.words.say("empty"));
  }

  _forget(id) {
    for (const one of [this._records, this._dismissed]) one.delete(id);
    this._arranged = null;
  }

  // Take what has changed. Progress leaves a job where it is.
  _take(jobs) {
    if (jobs === this._jobs) return;
    this._jobs = jobs;
    for (const id of this._records.keys()) if (!jobs.has(id)) this._forget(id);
    for (const [id, job] of jobs) {
      const known = this._records.get(id);
      if (known?.job === job) continue;
      const rank = rankOf(job), at = timeOf(job);
      if (rank !== known?.rank || at !== known.at || job.root_id !== known.job.root_id || this.filter) this._arranged = null;
      this._records.set(id, Object.assign(known ?? { key: id }, { job, rank, at, text: null }));
      if (at !== this._dismissed.get(id)) this._dismissed.delete(id); // it has begun again, and may have ended again
      this._note(job);
    }
  }

  // What runs first, then what waits, then what ended last. Jobs of a workflow are folded, and stand together.
  _arrange() {
    const matching = this._listed().filter(this._filter()), shown = new Set(firstOf(matching, this._most, this._list.opened));
    this._shown = shown.size;
    this._left = matching.length - shown.size;
    for (const id of this._folded) if (this._records.has(id)) this._unfold(id);
    this._flows = fold(this._listed(), this._flows);
    return arranged(this._flows, shown, this._list.opened, this._workflows);
  }

  _filter() {
    const statuses = listOf(this.status), words = this.filter?.trim().toLowerCase();
    return (record) => {
      const { label, task, message, error, job_id, status } = record.job;
      if (statuses.length && !statuses.includes(status)) return false;
      if (words) record.text ??= [label, task, message, error, job_id].join("\n").toLowerCase();
      return !words || record.text.includes(words);
    };
  }

  // The keyboard is not lost with the button.
  _drawMore(hasMore) {
    const { _more: more } = this, isFocused = this.shadowRoot.activeElement === more;
    put(more, this._left || (hasMore && this._step) ? this.words.say("more") : "");
    if (isFocused && more.hidden) this._list.root.focus({ preventScroll: true });
  }

  // Of further jobs, which the server sends when they are asked for, it is not known how they have ended.
  _drawToolbar(listed, total, hasMore) {
    const { words, dismissible } = this, counts = countsOf(listed), { size: gone } = this._dismissed, chosen = listOf(this.status);
    const isAllLive = !(counts.success + counts.error + gone); // live jobs are sent first
    for (const sum of this._sums) {
      put(sum, `${words.number(counts[sum.value])}${hasMore && (isOver({ status: sum.value }) || isAllLive) ? "+" : ""} ${words.say(sum.value)}`);
      set(sum, "part", `sum ${sum.value}`);
      set(sum, "aria-pressed", chosen.includes(sum.value));
    }
    set(this._group, "aria-label", words.say("statuses"));
    set(this._list.rows, "aria-label", words.say("jobs", { project: this.project }));
    for (const name of ["placeholder", "aria-label"]) set(this._search, name, words.say("filter"));
    if (this._search.value !== (this.filter ?? "")) this._search.value = this.filter ?? "";
    put(this._count, this._shown < total ? words.say("of", { n: this._shown, total }) : "");
    put(this._clear, dismissible && counts.success + counts.error ? words.say("clear") : "");
    put(this._restore, gone ? words.say("restore", { n: gone }) : "");
    put(this._none, !this._shown && listed.length ? words.say("none") : "");
    this._list.root.hidden = !this._shown;
    this._toolbar.hidden = !total && !gone;
  }
}

// Not where there is no page, nor a second time where two copies of this file are loaded.
const ELEMENTS = { "celery-realtime": CeleryRealtime, "celery-job": CeleryJob, "celery-project": CeleryProject };
for (const name in ELEMENTS) if (globalThis.customElements && !customElements.get(name)) customElements.define(name, ELEMENTS[name]);
