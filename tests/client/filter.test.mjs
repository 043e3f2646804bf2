// A filtered project shows what matches, as it is, whatever happens on the way; and the first of many jobs, and more.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mock, test } from "node:test";

import { matches, subscribeProject } from "../../celery_realtime/static/celery-realtime-filter.js";
import { attend } from "../../celery_realtime/static/celery-realtime-lifecycle.js";
import { projectStore } from "../../celery_realtime/static/celery-realtime-store.js";
import * as core from "../../celery_realtime/static/celery-realtime.js";
import { FakeServer, FakeSocket, randomFrom } from "./fake.mjs";

const VECTORS = JSON.parse(readFileSync(new URL("filter_vectors.json", import.meta.url)));

test("a job matches as on the server", () => {
  for (const [filter, job, fits] of VECTORS.matches) assert.equal(matches(filter, job), fits, JSON.stringify([filter, job]));
  assert.equal(matches(null, {}), true);
  assert.equal(matches({ status: "running", task: "a*" }, { status: "running", task: "ab" }), true);
});

function withTimers(act) {
  const { random } = Math;
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  try {
    return act();
  } finally {
    mock.timers.reset();
    Math.random = random;
  }
}

function tick(milliseconds) {
  for (let left = milliseconds; left > 0; left -= 10) mock.timers.tick(Math.min(left, 10));
}

const IDS = [..."abcdefghijkl"];
const TASKS = ["reports.build", "reports.send", "other"];
const LABELS = ["customer 1", "customer 2", undefined];
const FILTERS = [
  { status: ["running"] }, { status: ["queued", "running"], task: ["reports.*"] }, { status: ["success", "error"] },
  { label: ["customer *"] }, { task: ["other"], label: ["customer 2"] }, { status: ["error"], label: ["*1"] }, { task: ["*"] },
];
const BLANK = { progress: null, message: null, current: null, total: null, stalled: false };

// Jobs that live as jobs do: queued, running, tried again, ended, and published anew under the same id.
class JobServer extends FakeServer {
  constructor(random, options) {
    super(random, options);
    this.isOld = options.isOld; // knows no filter, and reads no single jobs
    this.readById = 0;
  }

  _subscribe(data) {
    this._filter = data.filter;
    return super._subscribe(data);
  }

  _readOn(data) {
    this._filter = data.filter;
    if (!data.jobs) return super._readOn(data);
    if (this.isOld) return { ok: false, error: { code: "bad_request", message: "from must be the next" } };
    if (this._isLost(0.1)) return { ok: false, error: { code: "unavailable", message: "later" } };
    this.readById++;
    const some = Math.ceil(data.jobs.length * (this.calm ? 1 : 0.6)); // the others have no room
    const jobs = data.jobs.slice(0, some).filter((id) => this.jobs.has(id)).map((id) => this.jobs.get(id));
    const { epoch, offset } = this, unread = data.jobs.slice(some);
    return structuredClone({ ok: true, project_id: "p", epoch, offset, jobs, next: null, ...(unread.length && { unread }) });
  }

  _page(...which) {
    const page = super._page(...which);
    return this.isOld ? page : { ...page, jobs: page.jobs.filter((job) => matches(this._filter, job)) };
  }

  tell(number) {
    const mark = { epoch: this.epoch, offset: ++this.offset };
    const unended = this._unended(), dice = this.random();
    if (dice < 0.1) this._publish("step", { number, _realtime: { job_id: null, project_id: "p", ...mark } });
    else if (dice < 0.15) this._publish("agent_workflow", { ...this._workflow(number), ...mark });
    else if (dice < 0.45 && unended.some(({ status }) => status === "running")) this._publish("agent_progress", { ...this._progress(number), ...mark });
    else if (dice < 0.55 && unended.length) this._publish("agent_metadata", { ...this._metadata(number), ...mark });
    else this._publish("agent_status", { ...this._next(), ...mark });
  }

  _unended() { return [...this.jobs.values()].filter(({ status }) => status === "queued" || status === "running"); }

  _next() {
    const job_id = this._one(IDS), job = this.jobs.get(job_id), dice = this.random();
    const change = (status, state, attempt) => this._changed({ ...job, status, state, attempt }, attempt === job.attempt);
    if (job?.status === "queued") return dice < 0.9 ? change("running", "STARTED", job.attempt) : change("error", "FAILURE", job.attempt);
    if (job?.status === "running") {
      if (dice < 0.4) return change("queued", "RETRY", job.attempt + 1);
      return dice < 0.7 ? change("success", "SUCCESS", job.attempt) : change("error", "FAILURE", job.attempt);
    }
    const label = this._one(LABELS);
    const born = { event: "status_change", job_id, project_id: "p", task: this._one(TASKS), ...(label && { label }), worker: null, status: "queued", state: "PENDING", attempt: 0 };
    return { ...this._changed(born, false), ...(job && { new_run: true }) };
  }

  _changed(job, keepsProgress) {
    this.jobs.set(job.job_id, { ...job, ...(keepsProgress && job.progress !== undefined ? {} : BLANK) });
    this.changedAt.set(job.job_id, this.offset);
    const { metadata, progress, message, current, total, stalled, ...status } = job;
    return status;
  }

  _progress(progress) {
    const job = this._one(this._unended().filter(({ status }) => status === "running"));
    const done = { progress, message: `at ${progress}`, current: null, total: null };
    Object.assign(job, done);
    this.changedAt.set(job.job_id, this.offset);
    const { job_id, attempt, task } = job;
    return { event: "progress_update", job_id, project_id: "p", attempt, task, ...done };
  }

  _metadata(value) {
    const job = this._one(this._unended());
    job.metadata = { ...job.metadata, value };
    this.changedAt.set(job.job_id, this.offset);
    return { event: "metadata_update", job_id: job.job_id, project_id: "p", set: { value }, deleted: [] };
  }
}

// What a page shows that is told of each change, and of nothing else.
class Mirror {
  constructor(server, options) {
    this.filter = options.filter;
    this.rows = new Map();
    this.lefts = 0;
    this.project = subscribeProject(server.socket, "p", { ...options, onChange: (one, change) => this.changed(one, change) });
  }

  changed({ jobs }, { reason, key, left }) {
    if (reason === "snapshot") this.rows = new Map(jobs);
    if (reason !== "jobs") return;
    if (left) {
      this.lefts++;
      assert.ok(this.rows.delete(key) && !jobs.has(key) && !matches(this.filter, left));
    } else this.rows.set(key, jobs.get(key));
  }
}

const plain = ({ progress, message, metadata, ...job }) => job;

function follow(seed, isOld) {
  const random = randomFrom(seed);
  Math.random = randomFrom(~seed);
  const server = new JobServer(random, { kept: 20 + Math.floor(random() * 100), pageSize: 1 + Math.floor(random() * 6), isOld });
  for (let number = 0; number < 60; number++) server.tell(number);
  const begin = () => new Mirror(server, { filter: FILTERS[Math.floor(random() * FILTERS.length)], batch: random() < 0.5 });
  const mirrors = [begin(), begin()];
  server.connect();
  for (let number = 0; number < 250; number++) {
    const dice = random();
    if (!server.socket.connected && dice < 0.1) server.connect();
    else if (dice < 0.01) server.disconnect();
    else if (dice < 0.013) server.forget();
    else if (dice < 0.02) server.resync();
    else server.tell(number);
    tick(Math.floor(random() * 60));
  }
  server.calm = true;
  if (!server.socket.connected) server.connect();
  server.tell(1000);
  tick(60000);
  for (const { project, rows, filter } of mirrors) {
    const where = `seed ${seed}, ${JSON.stringify(filter)}`;
    const expected = new Map([...server.jobs].filter(([, job]) => matches(filter, job)));
    const strip = (jobs) => (isOld ? new Map([...jobs].map(([id, job]) => [id, plain(job)])) : jobs);
    assert.equal(project.state, "subscribed", where);
    assert.deepEqual(strip(project.jobs), strip(expected), where);
    assert.deepEqual(rows, project.jobs, where);
    assert.deepEqual(project.workflows, server.workflows, where);
    assert.equal(project.hasMore, false, where);
    project.close();
  }
  return { lefts: mirrors[0].lefts + mirrors[1].lefts, readById: server.readById };
}

test("on an unreliable network, what is shown is what matches, and what leaves is told", () => {
  const sums = { lefts: 0, readById: 0 };
  for (let seed = 1; seed <= Number(process.env.SEEDS ?? 150); seed++) {
    const { lefts, readById } = withTimers(() => follow(seed, false));
    sums.lefts += lefts;
    sums.readById += readById;
  }
  assert.ok(sums.lefts > 100 && sums.readById > 100);
});

test("a server that knows no filter sends all jobs, and what is shown is what matches", () => {
  for (let seed = 1; seed <= Number(process.env.SEEDS ?? 50); seed++) withTimers(() => follow(seed, true));
});

const job = (id, more) => ({ event: "status_change", job_id: id, project_id: "p", task: "t", status: "running", state: "STARTED", attempt: 0, worker: "w", ...BLANK, ...more });
const status = (offset, id, more) => {
  const { progress, message, current, total, stalled, ...rest } = job(id, more);
  return { ...rest, epoch: "e", offset };
};
const answer = (more) => ({ ok: true, project_id: "p", epoch: "e", offset: 0, recovered: false, jobs: [], jobs_total: 0, workflows: [], events: [], ...more });

// Answers by hand: socket.requests has [name, data, acknowledge].
function byHand() {
  const socket = new FakeSocket((...request) => socket.requests.push(request));
  socket.requests = [];
  socket.connect();
  socket.reply = (more) => socket.requests.shift()[2](more);
  return socket;
}

test("the filter goes with each request for jobs, as lists", () => {
  const socket = byHand();
  const project = subscribeProject(socket, "p", { filter: { status: "running", task: ["a*"], label: [] }, batch: false });
  const filter = { status: ["running"], task: ["a*"] };
  assert.deepEqual(socket.requests[0].slice(0, 2), ["subscribe_project", { project_id: "p", filter }]);
  socket.reply(answer({ next: "[2]" }));
  assert.deepEqual(socket.requests[0].slice(0, 2), ["read_jobs", { project_id: "p", from: "[2]", filter }]);
  project.close();
});

test("a filter that a framework observes is sent as what it says", () => {
  const socket = byHand();
  const filter = new Proxy({ status: new Proxy(["running"], {}) }, {});
  const project = subscribeProject(socket, "p", { filter });
  assert.deepEqual(structuredClone(socket.requests[0][1].filter), { status: ["running"] });
  project.close();
});

test("without a condition all jobs are followed, and what is no filter is a mistake", () => {
  for (const filter of [null, undefined, {}, { status: [] }]) {
    const socket = byHand();
    const project = subscribeProject(socket, "p", { filter });
    assert.deepEqual(socket.requests[0][1], { project_id: "p", batch: true });
    project.close();
  }
  for (const filter of ["running", ["running"], 5]) assert.throws(() => subscribeProject(byHand(), "p", { filter }), TypeError);
  assert.throws(() => core.subscribeProject(byHand(), "p", { filter: {}, attend }), /celery-realtime-filter\.js/);
});

test("a filter that the server refuses is an error of the subscription", () => {
  const socket = byHand();
  const project = subscribeProject(socket, "p", { filter: { state: ["STARTED"] } });
  assert.deepEqual(socket.requests[0][1].filter, { state: ["STARTED"] });
  const error = { code: "bad_request", message: "filter has no 'state'" };
  socket.reply({ ok: false, error });
  assert.deepEqual([project.state, project.error], ["refused", error]);
  project.close();
});

test("a job that was there before is read when it begins to match, together with others, and only then", () => withTimers(() => {
  const socket = byHand();
  const statuses = [];
  const project = subscribeProject(socket, "p", { filter: { status: ["running"] }, onStatus: ({ job_id }) => statuses.push(job_id) });
  socket.reply(answer());
  socket.hear("agent_status", status(1, "a"));
  socket.hear("agent_status", status(2, "b"));
  socket.hear("agent_status", status(3, "new", { status: "queued", state: "PENDING", worker: null }));
  socket.hear("agent_status", status(4, "new"));
  socket.hear("agent_status", status(5, "ended", { status: "success" }));
  assert.deepEqual([...project.jobs.keys()], ["a", "b", "new"]);
  assert.deepEqual(statuses, ["a", "b", "new"]);
  assert.deepEqual(socket.requests, []);
  tick(60);
  const [[name, data]] = socket.requests;
  assert.deepEqual([name, data], ["read_jobs", { project_id: "p", jobs: ["a", "b"] }]);
  socket.hear("agent_progress", { event: "progress_update", job_id: "a", project_id: "p", attempt: 0, progress: 50, message: "on", current: null, total: null, epoch: "e", offset: 6 });
  socket.reply({ ok: true, epoch: "e", offset: 5, next: null, jobs: [job("a", { metadata: { k: 1 }, progress: 20 }), job("b", { progress: 30 })] });
  const { a, b } = Object.fromEntries(project.jobs);
  assert.deepEqual([a.progress, a.metadata, b.progress], [50, { k: 1 }, 30]);
  assert.deepEqual([...project.jobs.keys()], ["a", "b", "new"]);
  tick(1000);
  assert.deepEqual(socket.requests, []);
  project.close();
}));

test("a job that has left and comes back is known", () => withTimers(() => {
  const socket = byHand();
  const changes = [];
  const project = subscribeProject(socket, "p", { filter: { status: ["running"] }, onChange: (_, change) => changes.push(change) });
  socket.reply(answer({ jobs: [job("a", { metadata: { k: 1 } })] }));
  changes.length = 0;
  socket.hear("agent_status", status(1, "a", { status: "queued", state: "RETRY", attempt: 1 }));
  assert.equal(project.jobs.size, 0);
  assert.deepEqual([changes[0].reason, changes[0].key, changes[0].left.state], ["jobs", "a", "RETRY"]);
  socket.hear("agent_metadata", { event: "metadata_update", job_id: "a", project_id: "p", set: { more: 2 }, deleted: [], epoch: "e", offset: 2 });
  assert.equal(changes.length, 1);
  socket.hear("agent_status", status(3, "a", { attempt: 1 }));
  assert.deepEqual(project.jobs.get("a").metadata, { k: 1, more: 2 });
  tick(1000);
  assert.deepEqual(socket.requests, []);
  project.close();
}));

test("a filtered subscription leaves and comes back by its options", () => {
  const socket = byHand();
  const project = subscribeProject(socket, "p", { filter: { status: "running" }, enabled: false });
  assert.deepEqual([project.state, socket.requests], ["idle", []]);
  project.update({ enabled: true });
  assert.deepEqual(socket.requests[0][1].filter, { status: ["running"] });
  socket.reply(answer({ jobs: [job("a"), job("b", { status: "error" })] }));
  assert.deepEqual([project.state, [...project.jobs.keys()]], ["subscribed", ["a"]]);
  project.close();
});

test("the first jobs are shown, and more when they are asked for", () => {
  const socket = byHand();
  const project = subscribeProject(socket, "p", { limit: 2 });
  socket.reply(answer({ offset: 1, jobs: [job("a"), job("b")], jobs_total: 5, next: "[1]" }));
  assert.deepEqual([project.hasMore, socket.requests], [true, []]);
  project.loadMore();
  assert.deepEqual(socket.requests[0].slice(0, 2), ["read_jobs", { project_id: "p", from: "[1]" }]);
  socket.reply({ ok: true, epoch: "e", offset: 1, jobs: [job("c")], next: "[2]" });
  assert.equal(socket.requests[0][1].from, "[2]"); // there were to be two more
  socket.reply({ ok: true, epoch: "e", offset: 1, jobs: [job("d")], next: "[3]" });
  assert.deepEqual([project.hasMore, socket.requests, project.jobs.size], [true, [], 4]);
  const { hasMore, loadMore } = project.getSnapshot();
  assert.ok(hasMore);
  loadMore(10);
  socket.reply({ ok: true, epoch: "e", offset: 1, jobs: [job("e")], next: null });
  assert.deepEqual([project.hasMore, socket.requests, project.jobs.size], [false, [], 5]);
  project.close();
});

test("beyond maxJobs, further jobs are read when they are asked for", () => {
  const socket = byHand();
  const project = subscribeProject(socket, "p", { limit: 1, maxJobs: 1 });
  socket.reply(answer({ offset: 1, jobs: [job("a")], next: "[1]" }));
  project.loadMore(1);
  socket.reply({ ok: true, epoch: "e", offset: 1, jobs: [job("b")], next: "[2]" });
  socket.hear("agent_status", status(2, "b", { status: "success" }));
  assert.deepEqual([project.jobs.size, socket.requests], [2, []]);
  project.close();
});

test("a store has one subscription for each filter, however its object is made", async () => {
  const socket = byHand();
  const stores = [["running"], ["running"], ["error"]].map((list) => projectStore(socket, "p", { filter: { status: list }, linger: 0 }));
  const leave = stores.map((store) => store.subscribe(() => {}));
  assert.deepEqual(socket.requests.map(([, { filter }]) => filter.status), [["running"], ["error"]]);
  socket.reply(answer({ jobs: [job("a")], next: "[1]" }));
  socket.reply(answer({ jobs: [job("z", { status: "error" })] }));
  await new Promise((done) => setTimeout(done, 30));
  const [one, same, other] = stores.map((store) => store.getSnapshot());
  assert.equal(one, same);
  assert.deepEqual([[...one.jobs.keys()], one.hasMore], [["a"], true]);
  assert.deepEqual([[...other.jobs.keys()], other.hasMore], [["z"], false]);
  assert.equal(typeof one.loadMore, "function");
  const { hasMore, loadMore } = projectStore(null, "p").getSnapshot();
  assert.equal(hasMore, false);
  loadMore();
  for (const end of leave) end();
});
