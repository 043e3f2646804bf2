import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mock, test } from "node:test";

import { subscribeProject } from "../../celery_realtime/static/celery-realtime.js";
import { FakeServer, FakeSocket, randomFrom } from "./fake.mjs";

const VECTORS = JSON.parse(readFileSync(new URL("vectors.json", import.meta.url)));

function withTimers(act) {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  try {
    return act();
  } finally {
    mock.timers.reset();
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
    this.left = 0;
    this.told = [];
    this.resets = 0;
    this.socket = new FakeSocket((name, data, acknowledge) => this.request(name, data, acknowledge));
    const told = (name) => (data) => this.told.push([name, data.offset ?? null]);
    this.project = subscribeProject(this.socket, "p", {
      ...options,
      onStatus: told("agent_status"),
      onProgress: told("agent_progress"),
      onEvent: (name, data) => this.told.push([name, data?._realtime?.offset ?? data]),
      onChange: (_, change) => { this.resets += change.reason === "snapshot"; },
    });
  }

  request(name, data, acknowledge) {
    if (name === "unsubscribe_project") { this.left++; return; }
    this.asked.push(data);
    this.acknowledgements.push(acknowledge);
  }

  take(list) { return list.splice(0); }

  step([kind, value], where) {
    const { project, socket } = this;
    const expect = (actual, expected) => assert.deepEqual(actual, expected, where);
    const jobs = () => Object.fromEntries([...project.jobs].map(([id, job]) => [id, [job.status, job.state, job.progress]]));
    const flows = () => Object.fromEntries([...project.workflows].map(([id, flow]) => [id, flow.progress]));
    const steps = {
      connect: () => socket.connect(),
      disconnect: () => socket.disconnect(),
      asked: () => expect(this.take(this.asked), value === null ? [] : [value]),
      asked_within: () => {
        for (let left = value.wait; left > 0 && this.asked.length === 0; left -= 10) tick(10);
        expect(this.take(this.asked), [value.request]);
      },
      answer: () => this.acknowledgements.at(-1)(structuredClone(value)),
      late_answer: () => this.acknowledgements.at(-2)(structuredClone(value)),
      event: () => socket.hear(...value),
      wait: () => tick(value),
      told: () => expect(this.take(this.told), value),
      state: () => expect(project.state, value),
      error: () => expect(project.error?.code ?? null, value),
      jobs: () => expect(jobs(), value),
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

// Everything at random: what is dropped, doubled, delayed and reordered, disconnects, lost histories.
function ordeal(seed) {
  const random = randomFrom(seed);
  const server = new FakeServer(random, { kept: 20 + Math.floor(random() * 40) });
  const heard = []; // [epoch, offset], and "reset" where the client said that it may have missed something
  const project = subscribeProject(server.socket, "p", {
    onStatus: (data) => heard.push([data.epoch, data.offset]),
    onEvent: (_, data) => heard.push([data._realtime.epoch, data._realtime.offset]),
    onChange: (one, change) => { if (change.reason === "snapshot") heard.push([one.epoch, one.offset, "reset"]); },
  });
  server.connect();
  for (let turn = 0; turn < 300; turn++) {
    const dice = random();
    if (dice < 0.02) server.disconnect();
    else if (dice < 0.06 && !server.socket.connected) server.connect();
    else if (dice < 0.065) server.forget();
    else server.tell(turn);
    tick(Math.floor(random() * 60));
  }
  server.calm = true;
  if (!server.socket.connected) server.connect();
  server.tell(1000);
  tick(60000);
  return { server, project, heard };
}

function checkOrder(heard, seed) {
  let [epoch, offset] = [null, null];
  for (const [saidEpoch, saidOffset, reset] of heard) {
    if (!reset) assert.deepEqual([saidEpoch, saidOffset], [epoch, offset + 1], `seed ${seed}`);
    [epoch, offset] = [saidEpoch, saidOffset];
  }
  return [epoch, offset];
}

test("whatever happens on the way, every event is told once, in order, or a snapshot stands for it", () => {
  const seeds = Number(process.env.SEEDS ?? 300);
  for (let seed = 1; seed <= seeds; seed++) {
    withTimers(() => {
      const { server, project, heard } = ordeal(seed);
      assert.equal(project.state, "subscribed", `seed ${seed}`);
      assert.deepEqual(checkOrder(heard, seed), [server.epoch, server.offset], `seed ${seed}`);
      const numbers = (jobs) => Object.fromEntries([...jobs].map(([id, job]) => [id, [job.number, job.state]]));
      assert.deepEqual(numbers(project.jobs), numbers(server.jobs), `seed ${seed}`);
      project.close();
      assert.equal(server.socket.handlers, 1); // for the disconnect that ends the wait for the answer to leaving
    });
  }
});

function subscribed(socket, options) {
  socket._answer = (_, __, acknowledge) => acknowledge({ ok: true, epoch: "e", offset: 0, recovered: false, jobs: [], events: [] });
  const project = subscribeProject(socket, "p", options);
  if (!socket.connected) socket.connect();
  return project;
}

const step = (n) => ({ n, _realtime: { project_id: "p", epoch: "e", offset: n } });
const status = (n, more) => ({ job_id: "a", project_id: "p", status: "running", state: "STARTED", attempt: 0, epoch: "e", offset: n, ...more });

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

test("a mistake in a callback costs no event, and is seen", async () => {
  const mistakes = [];
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => mistakes.push(error.message));
  const told = [];
  const socket = new FakeSocket();
  const project = subscribed(socket, {
    onEvent: (_, data) => { told.push(data.n); if (data.n === 1) throw new Error("oops"); },
  });
  socket.hear("step", step(2));
  socket.hear("step", step(1));
  await new Promise((resolve) => setImmediate(resolve));
  process.removeAllListeners("uncaughtException");
  for (const listener of listeners) process.on("uncaughtException", listener);
  assert.deepEqual(told, [1, 2]);
  assert.deepEqual(mistakes, ["oops"]);
  project.close();
});

test("closing in a callback ends it there", () => {
  const told = [];
  const socket = new FakeSocket();
  const project = subscribed(socket, { onEvent: (_, data, one) => { told.push(data.n); one.close(); } });
  socket.hear("step", step(2));
  socket.hear("step", step(1));
  assert.deepEqual(told, [1]);
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

test("who subscribes again at once waits until it has left", async () => {
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

test("a project id may be a number", () => {
  const socket = new FakeSocket();
  const project = subscribeProject(socket, 456);
  socket.connect();
  assert.deepEqual(socket.sent, [["subscribe_project", { project_id: "456" }]]);
  project.close();
});
