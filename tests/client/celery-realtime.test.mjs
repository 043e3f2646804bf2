import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mock, test } from "node:test";

import * as client from "../../celery_realtime/static/celery-realtime.js";
import { FakeServer, FakeSocket, randomFrom } from "./fake.mjs";

const VECTORS = JSON.parse(readFileSync(new URL("vectors.json", import.meta.url)));

// Scenarios are told without batches, where they are not about these.
const subscribeProject = (socket, projectId, options) => client.subscribeProject(socket, projectId, { batch: false, ...options });

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

// In small steps: a timer that is set meanwhile counts from the end of a tick.
function tick(milliseconds) {
  for (let left = milliseconds; left > 0; left -= 10) mock.timers.tick(Math.min(left, 10));
}

// Runs a scenario step by step.
class Run {
  constructor(options) {
    this.acknowledgements = [];
    this.asked = [];
    this.pages = []; // requests for pages
    this.pageAnswers = [];
    this.left = 0;
    this.calls = [];
    this.resets = 0;
    this.socket = new FakeSocket((name, data, acknowledge) => this.request(name, data, acknowledge));
    const record = (name) => (data) => this.calls.push([name, data.offset ?? null]);
    this.project = subscribeProject(this.socket, "p", {
      ...options,
      onStatus: record("agent_status"),
      onProgress: record("agent_progress"),
      onMetadata: record("agent_metadata"),
      onEvent: (name, data) => this.calls.push([name, data?._realtime?.offset ?? data?.n ?? data]),
      onChange: (_, { reason, recovered }) => { this.resets += reason === "snapshot" && !recovered; },
    });
  }

  request(name, data, acknowledge) {
    if (name === "unsubscribe_project") { this.left++; return; }
    if (name === "read_jobs") {
      this.pages.push(data);
      this.pageAnswers.push(acknowledge);
      return;
    }
    this.asked.push(data);
    this.acknowledgements.push(acknowledge);
  }

  take(list) { return list.splice(0); }

  step([kind, value], where) {
    const { project, socket } = this;
    const expect = (actual, expected) => assert.deepEqual(actual, expected, where);
    const pairs = [...project.jobs].map(([id, job]) => [id, [job.status, job.state, job.progress]]);
    const jobs = () => Object.fromEntries(pairs);
    const flows = () => Object.fromEntries([...project.workflows].map(([id, flow]) => [id, flow.progress]));
    const steps = {
      connect: () => socket.connect(),
      disconnect: () => socket.disconnect(),
      connection_refused: () => socket.fail(Object.assign(new Error("refused"), { data: value })),
      asked: () => expect(this.take(this.asked), value === null ? [] : [value]),
      asked_within: () => {
        for (let left = value.wait; left > 0 && this.asked.length === 0; left -= 10) tick(10);
        expect(this.take(this.asked), [value.request]);
      },
      answer: () => this.acknowledgements.at(-1)(structuredClone(value)),
      late_answer: () => this.acknowledgements.at(-2)(structuredClone(value)),
      page_asked: () => expect(this.take(this.pages), value === null ? [] : [value]),
      page: () => this.pageAnswers.at(-1)(structuredClone(value)),
      late_page: () => this.pageAnswers.at(-2)(structuredClone(value)),
      event: () => socket.hear(...value),
      burst: () => { for (let n = value[0]; n <= value[1]; n++) socket.hear("step", step(n)); },
      wait: () => tick(value),
      callbacks: () => expect(this.take(this.calls), value),
      state: () => expect(project.state, value),
      error: () => expect(project.error?.code ?? null, value),
      jobs: () => expect(jobs(), value),
      order: () => expect([...project.jobs.keys()], value),
      fields: () => {
        for (const [id, fields] of Object.entries(value))
          for (const name in fields) expect(project.jobs.get(id)[name] ?? null, fields[name]);
      },
      workflows: () => expect(flows(), value),
      position: () => expect([project.epoch, project.offset], value),
      resets: () => expect(this.resets, value),
      close: () => project.close(),
      left: () => expect(this.left === 1, value),
    };
    steps[kind]();
  }
}

for (const { name, options, steps } of VECTORS) {
  test(name, () => withTimers(() => {
    const run = new Run(options);
    steps.forEach((step, number) => run.step(Object.entries(step)[0], `step ${number}: ${JSON.stringify(step)}`));
  }));
}

// One subscription and its events; a null event where a snapshot replaced missed ones.
class Follower {
  constructor(server, options) {
    this.server = server;
    this.heard = [];
    const note = (event, data, { epoch, offset }) => this.heard.push({ epoch, offset, event, data });
    this.project = subscribeProject(server.socket, "p", {
      ...options,
      onStatus: (data, one) => note("agent_status", data, one),
      onProgress: (data, one) => note("agent_progress", data, one),
      onWorkflow: (data, one) => note("agent_workflow", data, one),
      onEvent: note,
      onChange: (one, { reason, recovered }) => { if (reason === "snapshot" && !recovered) note(null, null, one); },
    });
  }

  get resets() { return this.heard.filter(({ event }) => event === null).length; }

  // Each event comes once, and none is missing except where a snapshot replaced it.
  check(where) {
    let before = { epoch: null, offset: null };
    for (const { epoch, offset, event, data } of this.heard) {
      if (event !== null) {
        assert.deepEqual([epoch, offset], [before.epoch, before.offset + 1], where);
        assert.deepEqual({ event, data }, this.server.sent.get(`${epoch} ${offset}`), where);
      }
      before = { epoch, offset };
    }
    return before;
  }

  close() {
    this.project.close();
    this.count = this.heard.length;
  }
}

// At random: dropped, doubled, delayed and reordered events, disconnects, lost histories, subscriptions that come and go.
class Ordeal {
  constructor(seed) {
    this.random = randomFrom(seed);
    this.where = `seed ${seed}`;
    Math.random = randomFrom(~seed); // of the pauses: a seed that has failed fails again
    const [kept, pageSize] = [20 + Math.floor(this.random() * 200), 1 + Math.floor(this.random() * 6)];
    this.server = new FakeServer(this.random, { kept, pageSize });
    this.following = [];
    this.gone = [];
  }

  follow() { this.following.push(new Follower(this.server, { batch: this.random() < 0.4 })); }

  leave() {
    const one = this.following.shift();
    one.close();
    this.gone.push(one);
  }

  turn(number) {
    const { following, random, server } = this;
    const dice = random();
    if (!server.socket.connected && dice < 0.1) server.connect();
    else if (dice < 0.01) server.disconnect();
    else if (dice < 0.013) server.forget();
    else if (dice < 0.02) server.resync();
    else if (dice < 0.03 && following.length < 3) this.follow();
    else if (dice < 0.035 && following.length) this.leave();
    else server.tell(number);
    tick(Math.floor(random() * 60));
  }

  run(turns) {
    this.follow();
    this.server.connect();
    for (let number = 0; number < turns; number++) this.turn(number);
    if (!this.following.length) this.follow();
    this.server.calm = true;
    if (!this.server.socket.connected) this.server.connect();
    this.server.tell(turns);
    tick(60000);
  }

  check() {
    const { server, where } = this;
    for (const one of this.following) {
      assert.equal(one.project.state, "subscribed", where);
      assert.deepEqual(one.check(where), { epoch: server.epoch, offset: server.offset }, where);
      assert.deepEqual(one.project.jobs, server.jobs, where);
      assert.deepEqual(one.project.workflows, server.workflows, where);
    }
    for (const one of this.gone) one.check(where);
    const everyone = [...this.following, ...this.gone];
    const resets = everyone.reduce((sum, one) => sum + Math.max(0, one.resets - 1), 0);
    assert.ok(resets <= server.unrecovered, where);
  }

  end() {
    const { server, where } = this;
    while (this.following.length) this.leave();
    const asked = server.socket.sent.length;
    server.tell(0);
    tick(60000);
    assert.equal(server.socket.sent.length, asked, where);
    assert.equal(server.socket.handlers, 0, where);
    assert.equal(server.room, null, where);
    for (const one of this.gone) assert.equal(one.heard.length, one.count, where);
  }
}

test("on an unreliable network, each event is passed on once and in order, or replaced by a snapshot", () => {
  const seeds = Number(process.env.SEEDS ?? 300);
  for (let seed = 1; seed <= seeds; seed++) {
    withTimers(() => {
      const ordeal = new Ordeal(seed);
      ordeal.run(500);
      ordeal.check();
      ordeal.end();
    });
  }
});

function subscribed(socket, options, answer) {
  socket._answer = (_, __, acknowledge) => acknowledge(snapshot(answer));
  const project = subscribeProject(socket, "p", options);
  if (!socket.connected) socket.connect();
  return project;
}

const step = (n) => ({ n, _realtime: { job_id: null, project_id: "p", epoch: "e", offset: n } });
const running = { job_id: "a", project_id: "p", status: "running", state: "STARTED", attempt: 0, epoch: "e" };
const status = (n, more) => ({ ...running, offset: n, ...more });

test("a snapshot is the same object until something changes, and is never changed itself", () => {
  const socket = new FakeSocket();
  const project = subscribed(socket);
  const { getSnapshot, subscribe } = project;
  const before = getSnapshot();
  let calls = 0;
  const end = subscribe(() => calls++);
  assert.equal(getSnapshot(), before);
  socket.hear("step", step(1));
  assert.equal(getSnapshot(), before);
  assert.equal(calls, 0);
  socket.hear("agent_status", status(2));
  const after = getSnapshot();
  assert.notEqual(after, before);
  assert.equal(after.jobs, project.jobs);
  assert.equal(before.jobs.size, 0);
  assert.equal(calls, 1);
  end();
  socket.hear("agent_status", status(3, { status: "success", state: "SUCCESS" }));
  assert.equal(calls, 1);
  assert.equal(after.jobs.get("a").status, "running");
  assert.throws(() => { after.jobs.get("a").status = "queued"; }, TypeError);
  project.close();
});

test("a callback that throws costs no event, and its error is reported", async () => {
  const mistakes = [];
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => mistakes.push(error.message));
  const numbers = [];
  const socket = new FakeSocket();
  const project = subscribed(socket, {
    onEvent: (_, data) => { numbers.push(data.n); if (data.n === 1) throw new Error("oops"); },
  });
  socket.hear("step", step(2));
  socket.hear("step", step(1));
  await new Promise((resolve) => setImmediate(resolve));
  process.removeAllListeners("uncaughtException");
  for (const listener of listeners) process.on("uncaughtException", listener);
  assert.deepEqual(numbers, [1, 2]);
  assert.deepEqual(mistakes, ["oops"]);
  project.close();
});

test("closing in a callback ends it there", () => {
  const numbers = [];
  const socket = new FakeSocket();
  const project = subscribed(socket, { onEvent: (_, data, one) => { numbers.push(data.n); one.close(); } });
  socket.hear("step", step(2));
  socket.hear("step", step(1));
  assert.deepEqual(numbers, [1]);
  project.close();
});

test("two subscriptions of a socket share the room until the last one leaves", () => {
  const socket = new FakeSocket();
  const first = subscribed(socket);
  const second = subscribed(socket);
  const leaves = () => socket.sent.filter(([name]) => name === "unsubscribe_project").length;
  first.close();
  first.close();
  assert.equal(leaves(), 0);
  second.close();
  assert.equal(leaves(), 1);
});

test("a subscription made at once after leaving waits until the server has confirmed that", async () => {
  const socket = new FakeSocket();
  const first = subscribed(socket);
  let left;
  socket._answer = (_, __, acknowledge) => { left = acknowledge; };
  first.close();
  const second = subscribeProject(socket, "p");
  const names = () => socket.sent.map(([name]) => name).slice(1);
  assert.deepEqual(names(), ["unsubscribe_project"]);
  left({ ok: true });
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(names(), ["unsubscribe_project", "subscribe_project"]);
  second.close();
});

// Answers by hand: socket.requests has [name, data, acknowledge].
function byHand() {
  const socket = new FakeSocket((...request) => socket.requests.push(request));
  socket.requests = [];
  socket.connect();
  return socket;
}

const nothing = { ok: true, project_id: "p", epoch: "e", offset: 0, recovered: false, jobs: [], events: [] };
const snapshot = (more) => ({ ...nothing, ...more });
const refusal = (code) => ({ ok: false, error: { code, message: "no" } });

test("an unconfirmed leaving is waited for, but not for ever", () => withTimers(() => {
  const socket = byHand();
  subscribeProject(socket, "p").close();
  const second = subscribeProject(socket, "p");
  const names = () => socket.requests.map(([name]) => name).slice(1);
  assert.deepEqual(names(), ["unsubscribe_project"]);
  tick(6000);
  assert.deepEqual(names(), ["unsubscribe_project", "subscribe_project"]);
  second.close();
}));

test("a new connection has nothing to leave", () => {
  const socket = byHand();
  subscribeProject(socket, "p").close();
  socket.disconnect();
  socket.connect();
  const second = subscribeProject(socket, "p");
  assert.equal(socket.requests.at(-1)[0], "subscribe_project");
  second.close();
});

test("closing while there is no connection asks for nothing", () => {
  const socket = byHand();
  const project = subscribeProject(socket, "p");
  socket.disconnect();
  project.close();
  socket.connect();
  assert.equal(socket.requests.length, 1);
  assert.equal(socket.handlers, 0);
});

test("a connection that comes while it is closed is not used", () => {
  const socket = new FakeSocket();
  socket.on("connect", () => second.close());
  const first = subscribeProject(socket, "p");
  const second = subscribeProject(socket, "p");
  socket.connect();
  assert.deepEqual(socket.sent.map(([name]) => name), ["subscribe_project"]);
  first.close();
});

test("an answer after closing calls nothing", () => withTimers(() => {
  const socket = byHand();
  let calls = 0;
  const project = subscribeProject(socket, "p", { onChange: () => calls++ });
  project.close();
  socket.requests[0][2](snapshot());
  assert.equal(calls, 0);
  assert.deepEqual(Object.keys(project._timers), []);
}));

test("leaving twice is waited for twice", () => {
  const socket = byHand();
  subscribeProject(socket, "p").close();
  subscribeProject(socket, "p").close();
  const third = subscribeProject(socket, "p");
  const [, first, second, ...rest] = socket.requests;
  assert.deepEqual([first[0], second[0], rest], ["unsubscribe_project", "unsubscribe_project", []]);
  first[2]({ ok: true });
  assert.equal(socket.requests.length, 3);
  second[2]({ ok: true });
  assert.equal(socket.requests.at(-1)[0], "subscribe_project");
  third.close();
});

test("the number of held events is bounded", () => {
  const socket = byHand();
  const project = subscribeProject(socket, "p");
  for (let n = 2; n < 9000; n++) socket.hear("step", step(n));
  assert.ok(project._early.length <= 2000);
  socket.requests[0][2](snapshot());
  for (let n = 2; n < 9000; n++) socket.hear("step", step(n));
  assert.ok(project._waiting.size <= 2001);
  assert.equal(socket.requests.length, 2);
  project.close();
});

test("closing in the midst of an answer leaves nothing behind", () => withTimers(() => {
  for (const callback of ["onEvent", "onChange"]) {
    const socket = byHand();
    let calls = 0;
    const close = () => { calls++; project.close(); };
    const project = subscribeProject(socket, "p", { since: { epoch: "e", offset: 0 }, [callback]: close });
    const events = [1, 2, 4].map((n) => ({ event: "step", data: step(n) }));
    socket.requests[0][2](snapshot({ offset: 3, recovered: true, events }));
    tick(120000);
    assert.deepEqual(socket.requests.map(([name]) => name), ["subscribe_project", "unsubscribe_project"]);
    assert.equal(socket.handlers, 0);
    assert.equal(calls, 1);
  }
}));

test("a callback that breaks the connection does not leave it subscribed", () => {
  const socket = byHand();
  const project = subscribeProject(socket, "p", {
    onChange: (_, { reason }) => { if (reason === "snapshot") socket.disconnect(); },
  });
  socket.requests[0][2](snapshot());
  assert.equal(project.state, "stale");
  project.close();
});

test("a refusal that removes the socket from the room makes all that share it ask again", () => withTimers(() => {
  const socket = byHand();
  const both = [subscribeProject(socket, "p"), subscribeProject(socket, "p")];
  for (const [, , acknowledge] of socket.requests.splice(0)) acknowledge(snapshot());
  socket.hear("step", step(2)); // each of them asks for the first in its time
  tick(300);
  const [[, , first], [, , second]] = socket.requests.splice(0);
  second(snapshot({ offset: 2, recovered: true, events: [1, 2].map((n) => ({ event: "step", data: step(n) })) }));
  first(refusal("unavailable"));
  assert.deepEqual(both.map((one) => one.state), ["stale", "subscribed"]);
  socket.requests.shift()[2](refusal("unavailable"));
  assert.deepEqual(both.map((one) => one.state), ["stale", "stale"]);
  tick(600);
  assert.equal(socket.requests.length, 2);
  for (const one of both) one.close();
}));

test("a connection that is refused says why, until there is one", () => {
  const socket = new FakeSocket((_, __, acknowledge) => acknowledge(snapshot()));
  const project = subscribeProject(socket, "p");
  socket.fail(new Error("xhr poll error"));
  assert.deepEqual([project.state, project.error], ["subscribing", null]);
  const refused = { code: "unauthorized", message: "the token has ended" };
  socket.fail(Object.assign(new Error("the token has ended"), { data: refused }));
  assert.deepEqual([project.state, project.error], ["refused", refused]);
  socket.connect();
  assert.deepEqual([project.state, project.error], ["subscribed", null]);
  project.close();
});

test("after a transient refusal of the connection, nothing is asked before there is one", () => withTimers(() => {
  const socket = new FakeSocket();
  const project = subscribeProject(socket, "p");
  socket.fail(Object.assign(new Error("later"), { data: { code: "unavailable", message: "later" } }));
  assert.equal(project.state, "stale");
  tick(20000);
  assert.deepEqual(socket.sent, []);
  project.close();
}));

test("a page that wakes up asks whether something was missed, if no event came lately", () => withTimers(() => {
  const page = new EventTarget();
  Object.assign(globalThis, {
    addEventListener: page.addEventListener.bind(page),
    removeEventListener: page.removeEventListener.bind(page),
  });
  try {
    const socket = byHand();
    const project = subscribeProject(socket, "p");
    socket.requests[0][2](snapshot());
    const wake = (name) => page.dispatchEvent(new Event(name));
    wake("online");
    assert.equal(socket.requests.length, 1);
    for (const [index, name] of ["visibilitychange", "online", "pageshow"].entries()) {
      tick(16000);
      wake(name);
      assert.equal(socket.requests.length, 2 + index);
      wake(name);
      socket.requests.at(-1)[2](snapshot({ recovered: true }));
      assert.equal(socket.requests.length, 2 + index);
    }
    tick(16000);
    wake("online");
    socket.requests.at(-1)[2](refusal("forbidden"));
    const count = socket.requests.length;
    tick(16000);
    wake("online");
    assert.equal(socket.requests.length, count);
    project.close();
    wake("online");
    assert.equal(socket.requests.at(-1)[0], "unsubscribe_project");
  } finally {
    delete globalThis.addEventListener;
    delete globalThis.removeEventListener;
  }
}));

test("jobs and workflows that have ended are dropped beyond the limit, oldest first", () => {
  const socket = new FakeSocket();
  const project = subscribed(socket, { maxJobs: 3 });
  const tell = (offset, job_id, over) =>
    socket.hear("agent_status", status(offset, { job_id, ...(over && { status: "success", state: "SUCCESS" }) }));
  tell(1, "a");
  tell(2, "b", true);
  tell(3, "c", true);
  const before = project.jobs;
  tell(4, "d", true);
  assert.deepEqual([...project.jobs.keys()], ["a", "c", "d"]);
  assert.deepEqual([...before.keys()], ["a", "b", "c"]);
  for (const [index, name] of ["w", "x", "y", "z"].entries()) {
    const flow = { event: "workflow_update", root_id: name, project_id: "p", queued: 0, running: index ? 0 : 1 };
    socket.hear("agent_workflow", { ...flow, epoch: "e", offset: 5 + index });
  }
  assert.deepEqual([...project.workflows.keys()], ["w", "y", "z"]);
  project.close();
});

test("a job that has just ended stays", () => {
  const socket = new FakeSocket();
  const project = subscribed(socket, { maxJobs: 2 });
  for (const [index, job_id] of ["a", "b", "c"].entries()) socket.hear("agent_status", status(index + 1, { job_id }));
  socket.hear("agent_status", status(4, { job_id: "a", status: "success", state: "SUCCESS" }));
  assert.equal(project.jobs.get("a").status, "success");
  project.close();
});

test("a map that has been handed out is not changed any more", () => {
  const socket = new FakeSocket();
  const project = subscribed(socket);
  const sizes = [];
  for (let n = 1; n < 9; n++) {
    if (n % 3 === 0) sizes.push([n - 1, project.jobs]);
    socket.hear("agent_status", status(n, { job_id: `job-${n}` }));
  }
  for (const [size, jobs] of sizes) assert.equal(jobs.size, size);
  assert.equal(project.jobs.size, 8);
  project.close();
});

test("an option that is undefined has its default", () => withTimers(() => {
  const socket = byHand();
  const project = subscribeProject(socket, "p", { gapTimeout: undefined, checkInterval: undefined });
  socket.requests[0][2](snapshot());
  tick(20000);
  assert.equal(socket.requests.length, 1);
  project.close();
}));

function* orders(items) {
  if (items.length === 0) yield [];
  for (const [index, first] of items.entries())
    for (const rest of orders(items.filter((_, other) => other !== index))) yield [first, ...rest];
}

test("without offsets, a job ends up in its last state, in whatever order events arrive", () => {
  const job = { job_id: "a", project_id: "p" };
  const status = (word, state, attempt) => ["agent_status", { ...job, status: word, state, attempt }];
  const progress = (percent, attempt) => ["agent_progress", { ...job, progress: percent, attempt }];
  const life = [
    status("queued", "PENDING", 0), status("running", "STARTED", 0), progress(50, 0),
    status("queued", "RETRY", 1), status("running", "STARTED", 1), progress(20, 1), status("error", "FAILURE", 1),
  ];
  for (let length = 1; length <= life.length; length++) {
    const [, last] = life[length - 1];
    for (const order of orders(life.slice(0, length))) {
      const socket = new FakeSocket();
      const project = subscribed(socket, {}, { epoch: null, offset: null });
      for (const event of order) socket.hear(...event);
      const { status, attempt } = project.jobs.get("a");
      assert.deepEqual([status, attempt], [last.status ?? "running", last.attempt]);
      project.close();
    }
  }
});

test("a project id may be a number", () => {
  const socket = new FakeSocket();
  const project = subscribeProject(socket, 456);
  socket.connect();
  assert.deepEqual(socket.sent, [["subscribe_project", { project_id: "456" }]]);
  project.close();
});

test("events come in batches, unless it is asked for otherwise", () => {
  for (const [options, batch] of [[undefined, true], [{ batch: undefined }, true], [{ batch: true }, true], [{ batch: false }, undefined]]) {
    const socket = new FakeSocket();
    socket.connect();
    client.subscribeProject(socket, "p", options).close();
    assert.deepEqual(socket.sent[0], ["subscribe_project", { project_id: "p", ...(batch ? { batch } : {}) }]);
  }
});
