import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mock, test } from "node:test";

import { subscribeJob } from "../../celery_realtime/static/celery-realtime-streams.js";
import { FakeSocket, randomFrom } from "./fake.mjs";

const VECTORS = JSON.parse(readFileSync(new URL("stream_vectors.json", import.meta.url)));

function withTimers(act) {
  mock.timers.enable({ apis: ["setTimeout", "Date"] });
  try {
    return act();
  } finally {
    mock.timers.reset();
  }
}

function tick(milliseconds) {
  for (let left = milliseconds; left > 0; left -= 10) mock.timers.tick(Math.min(left, 10));
}

// Runs a scenario step by step.
class Run {
  constructor() {
    this.requests = [];
    this.acknowledgements = [];
    this.chunks = [];
    this.socket = new FakeSocket((name, data, acknowledge) => {
      this.requests.push([name, data]);
      this.acknowledgements.push(acknowledge);
    });
    this.job = subscribeJob(this.socket, "j", { projectId: "p", onChunk: (_, chunk) => this.chunks.push(chunk) });
  }

  steps = {
    connect: () => this.socket.connect(),
    disconnect: () => this.socket.disconnect(),
    answer: (answer) => this.acknowledgements.at(-1)(answer),
    hear: (data) => this.socket.hear("agent_stream", data),
    status: (data) => this.socket.hear("agent_status", data),
    progress: (data) => this.socket.hear("agent_progress", data),
    changes: (data) => this.socket.hear("agent_metadata", data),
    resync: (data) => this.socket.hear("agent_resync", data),
    fields: (fields) => {
      for (const name in fields) assert.deepEqual(this.job.job?.[name] ?? null, fields[name]);
    },
    batch: (items) => this.socket.hear("agent_batch", items),
    wait: (milliseconds) => tick(milliseconds),
    asked: (request) => assert.deepEqual(this.requests.splice(0), request ? [request] : []),
    state: (state) => assert.equal(this.job.state, state),
    job: ([status, state]) => assert.deepEqual([this.job.job.status, this.job.job.state], [status, state]),
    chunks: (chunks) => assert.deepEqual(this.chunks, chunks),
    streams: (streams) => {
      const seen = [...this.job.streams.values()].map((s) => [s.name, [s.value, s.start, s.state, s.attempt]]);
      assert.deepEqual(Object.fromEntries(seen), streams);
    },
  };

  take(step) {
    const [[name, value]] = Object.entries(step);
    this.steps[name](value);
  }
}

for (const { name, steps } of VECTORS) {
  test(name, () => withTimers(() => {
    const run = new Run();
    for (const step of steps) run.take(step);
  }));
}

// A server with one stream, on a network that loses, doubles and delays chunks, and that breaks.
function follow(seed) {
  const random = randomFrom(seed);
  const whole = Array.from({ length: 300 }, (_, number) => (number % 7 ? `${number} ` : "𝄞é")).join("");
  const characters = [...whole];
  let written = 0;
  const state = () => (written === characters.length ? "closed" : "open");
  const answerFrom = (from, most) => {
    const position = Math.min(written, from + most);
    const value = characters.slice(from, position).join("");
    const fields = { stream: "answer", kind: "text", attempt: 0, generation: 1 };
    return { ...fields, start: from, position, end: written, value, state: state() };
  };
  const socket = new FakeSocket((name, data, acknowledge) => {
    const answer = name === "subscribe_job" ? { streams: [answerFrom(0, 300)], jobs: [], epoch: null, offset: null }
      : { ...answerFrom(data.from, 50) };
    const { id } = socket;
    if (random() < 0.1) return;
    setTimeout(() => socket.id === id && acknowledge({ ok: true, project_id: "p", ...answer }), random() * 300);
  });
  const heard = [];
  const job = subscribeJob(socket, "j", { onChunk: (_, chunk) => heard.push(chunk) });
  socket.connect();
  while (written < characters.length) {
    const position = written;
    written = Math.min(written + 1 + Math.floor(random() * 20), characters.length);
    const chunk = characters.slice(position, written).join("");
    const data = { job_id: "j", project_id: "p", stream: "answer", kind: "text", attempt: 0, generation: 1, position, chunk, state: state() };
    for (let copies = random() < 0.2 ? 0 : random() < 0.2 ? 2 : 1; copies; copies--) {
      const { id } = socket;
      setTimeout(() => socket.id === id && socket.hear("agent_stream", data), random() * 200);
    }
    if (random() < 0.03) {
      socket.disconnect();
      setTimeout(() => socket.connect(), random() * 500);
    }
    tick(Math.floor(random() * 100));
  }
  tick(60000);
  if (!socket.connected) socket.connect();
  socket.disconnect();
  socket.connect();
  tick(60000);
  assert.equal(job.streams.get("answer").value, whole);
  assert.equal(job.streams.get("answer").state, "closed");
  assert.equal(heard.join(""), whole);
}

for (let seed = 1; seed <= 60; seed++) {
  test(`a reader has it all, and each character once, over network ${seed}`, () => withTimers(() => follow(seed)));
}

test("leaving does not cancel, and the last one who leaves tells the server", () => withTimers(() => {
  const run = new Run();
  const other = subscribeJob(run.socket, "j");
  run.socket.connect();
  run.requests.length = 0;
  run.job.close();
  assert.deepEqual(run.requests, []);
  other.close();
  assert.deepEqual(run.requests, [["unsubscribe_job", { job_id: "j" }]]);
  assert.equal(run.socket.handlers, 0);
  run.job.cancel();
  assert.equal(run.requests.at(-1)[0], "cancel_job");
}));

test("a cancellation is answered in any case, and none is kept for a later connection", async () => {
  const answers = [];
  withTimers(() => {
    const run = new Run();
    answers.push(run.job.cancel());
    assert.deepEqual(run.requests, []);
    run.socket.connect();
    answers.push(run.job.cancel());
    assert.deepEqual(run.requests.at(-1), ["cancel_job", { job_id: "j", project_id: "p" }]);
    mock.timers.tick(5000); // the connection has gone with the answer
  });
  const [early, lost] = await Promise.all(answers);
  assert.deepEqual(early, { ok: false, error: { code: "unavailable", message: "not connected" } });
  assert.deepEqual([lost.ok, lost.error.code], [false, "unavailable"]);
});

test("it is a store as React wants it", () => withTimers(() => {
  const run = new Run();
  let calls = 0;
  const stop = run.job.subscribe(() => { calls++; });
  const before = run.job.getSnapshot();
  assert.equal(before, run.job.getSnapshot());
  run.socket.connect();
  run.acknowledgements.at(-1)({ ok: true, project_id: "p", jobs: [], streams: [] });
  assert.notEqual(before, run.job.getSnapshot());
  assert.ok(calls > 0);
  stop();
}));

test("a subscription made at once after leaving waits until the server has confirmed that", () => withTimers(() => {
  const run = new Run();
  run.socket.connect();
  run.job.close();
  const names = () => run.requests.map(([name]) => name);
  const next = subscribeJob(run.socket, "j");
  assert.deepEqual(names(), ["subscribe_job", "unsubscribe_job"]);
  run.acknowledgements.at(-1)({ ok: true });
  assert.deepEqual(names(), ["subscribe_job", "unsubscribe_job", "subscribe_job"]);
  next.close();
  subscribeJob(run.socket, "j"); // it waits for an answer, but not for ever
  assert.equal(names().at(-1), "unsubscribe_job");
  tick(6000);
  assert.equal(names().at(-1), "subscribe_job");
}));

test("a job of another project with the same id is another one", () => withTimers(() => {
  const asked = [];
  const socket = new FakeSocket((name, data, acknowledge) => asked.push([name, data, acknowledge]));
  socket.connect();
  const named = ["p", "q"].map((projectId) => subscribeJob(socket, "j", { projectId }));
  const found = subscribeJob(socket, "j"), late = subscribeJob(socket, "j");
  const answer = (place, project_id) => asked[place][2]({ ok: true, project_id, epoch: project_id, offset: 0, jobs: [], streams: [] });
  const status = (project_id, state) => socket.hear("agent_status", { job_id: "j", project_id, epoch: project_id, offset: 1, status: "running", state });
  answer(0, "p");
  answer(1, "q");
  status("p", "P");
  status("q", "Q");
  answer(2, "q");
  assert.deepEqual([...named, found].map(({ job }) => job?.state), ["P", "Q", "Q"]);
  const sent = () => asked.splice(0).map(([name, data]) => [name, data]);
  const [, , , [, , answerLate]] = asked.splice(0);
  named[1].close(); // it is used by the one that has found it
  late.close(); // nobody knows yet of which project it is
  assert.deepEqual(sent(), []);
  found.close();
  assert.deepEqual(sent(), [["unsubscribe_job", { job_id: "j", project_id: "q" }]]);
  answerLate({ ok: true, project_id: "r", jobs: [], streams: [] });
  assert.deepEqual(sent(), [["unsubscribe_job", { job_id: "j", project_id: "r" }]]);
  assert.equal(named[0].job.state, "P");
  named[0].close();
  assert.deepEqual([sent(), socket.handlers], [[["unsubscribe_job", { job_id: "j", project_id: "p" }]], 0]);
}));

test("over a new connection nothing is left that is waited for", () => withTimers(() => {
  const run = new Run();
  run.socket.connect();
  run.job.close();
  run.socket.disconnect();
  subscribeJob(run.socket, "j");
  run.socket.connect();
  assert.equal(run.requests.at(-1)[0], "subscribe_job");
}));

test("a custom event is none of the job's, whatever it is called", () => withTimers(() => {
  const run = new Run();
  run.socket.connect();
  run.acknowledgements.at(-1)({ ok: true, project_id: "p", jobs: [], streams: [] });
  for (const name of ["toString", "constructor", "__proto__"]) run.socket.hear(name, { job_id: "j", project_id: "p", attempt: 0 });
  assert.equal(run.job.job, null);
}));

test("of very many events that come before an answer, the latest are kept", () => withTimers(() => {
  const run = new Run();
  run.socket.connect();
  const update = { job_id: "j", project_id: "p", epoch: "e", attempt: 0 };
  for (let offset = 1; offset <= 3000; offset++) run.socket.hear("agent_progress", { ...update, offset, progress: offset / 30 });
  run.socket.hear("agent_status", { ...update, offset: 3001, status: "success", state: "SUCCESS" });
  run.acknowledgements.at(-1)({ ok: true, project_id: "p", epoch: "e", offset: 10, jobs: [], streams: [] });
  assert.equal(run.job.job.state, "SUCCESS");
}));

test("a subscription may begin with the end of each stream", () => withTimers(() => {
  const asked = [];
  const socket = new FakeSocket((name, data) => asked.push([name, data]));
  const job = subscribeJob(socket, "j", { tail: 100 });
  socket.connect();
  assert.deepEqual(asked, [["subscribe_job", { job_id: "j", tail: 100 }]]);
  job.close();
}));
