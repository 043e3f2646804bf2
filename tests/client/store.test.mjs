// One view for all that show it: shared, stable, and only as long as it is needed.
import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { cancelJob, jobStore, keyOf, projectStore, rerunJob, selected, streamStore } from "../../celery_realtime/static/celery-realtime-store.js";
import { FakeSocket } from "./fake.mjs";

const ANSWER = { ok: true, epoch: "e", offset: 0, recovered: false, jobs: [], workflows: [], events: [], streams: [] };
const status = (offset, job_id, more) => ({
  event: "status_change", job_id, project_id: "p", task: "t", status: "running", state: "STARTED", result: null,
  error: null, attempt: 0, root_id: job_id, epoch: "e", offset, timestamp: "2024-01-15T10:30:00.000Z", ...more,
});
const chunk = (position, text, more) => ({
  event: "stream_chunk", job_id: "a", project_id: "p", stream: "answer", kind: "text", attempt: 0, generation: 1,
  position, chunk: text, state: "open", ...more,
});
const ended = { status: "success", state: "SUCCESS" };

// A server with a few jobs, which answers as it is told to.
function serve(answer = {}) {
  const socket = new FakeSocket((name, data, acknowledge) => acknowledge?.({ ...ANSWER, project_id: "p", ...socket.answer }));
  socket.answer = answer;
  return socket;
}

const asked = (socket) => socket.sent.map(([name]) => name);
const requests = (socket, wanted) => socket.sent.filter(([name]) => name === wanted).map(([, data]) => data);

// Let what is due happen, and the time of a throttled change pass.
async function settle(milliseconds = 20) {
  await Promise.resolve();
  mock.timers.tick(milliseconds);
  await Promise.resolve();
}

function page(visibilityState = "visible") {
  const document = new EventTarget();
  document.visibilityState = visibilityState;
  globalThis.document = document;
  return {
    show: (state) => { document.visibilityState = state; document.dispatchEvent(new Event("visibilitychange")); },
    reset: () => { delete globalThis.document; },
  };
}

function follow(store) {
  const seen = [];
  const leave = store.subscribe(() => seen.push(store.getSnapshot()));
  return { seen, leave, last: () => store.getSnapshot() };
}

beforeEach(() => mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1e12 }));
afterEach(() => mock.timers.reset());

test("nothing is opened before somebody listens", async () => {
  const socket = serve();
  socket.connect();
  const store = projectStore(socket, "p");
  assert.equal(store.getSnapshot().status, "subscribing");
  assert.equal(store.getSnapshot(), store.getServerSnapshot());
  assert.deepEqual([socket.sent, socket.handlers], [[], 0]);
  const leave = store.subscribe(() => {});
  await settle();
  assert.equal(store.getSnapshot().status, "subscribed");
  leave();
});

test("however many show a project, it is subscribed to once, in batches, and left a moment after the last", async () => {
  const socket = serve();
  socket.connect();
  const all = Array.from({ length: 10 }, () => follow(projectStore(socket, "p")));
  await settle();
  assert.deepEqual(requests(socket, "subscribe_project"), [{ project_id: "p", batch: true }]);
  socket.hear("agent_status", status(1, "a"));
  await settle();
  assert.equal(new Set(all.map(({ last }) => last())).size, 1);
  for (const { leave } of all) leave();
  await settle(999);
  assert.deepEqual(asked(socket), ["subscribe_project"]);
  await settle(1);
  assert.deepEqual(asked(socket), ["subscribe_project", "unsubscribe_project"]);
  assert.equal(socket.handlers, 0);
});

test("who comes right back finds all there, and causes no request", async () => {
  const socket = serve({ jobs: [status(0, "a")] });
  socket.connect();
  const first = follow(projectStore(socket, "p"));
  await settle();
  const { jobs } = first.last();
  first.leave();
  await settle(500);
  const second = projectStore(socket, "p");
  assert.equal(second.getSnapshot().jobs, jobs);
  const { leave } = follow(second);
  await settle(5000);
  assert.deepEqual(asked(socket), ["subscribe_project"]);
  leave();
  await settle(1000);
  assert.equal(projectStore(socket, "p").getSnapshot().status, "subscribing");
});

test("other options are another subscription, the same ones are not, whatever their order or callbacks", () => {
  assert.equal(keyOf({ maxJobs: 5, batch: false, onStatus: () => {}, enabled: true, since: undefined }), keyOf({ batch: false, maxJobs: 5 }));
  assert.notEqual(keyOf({ maxJobs: 5 }), keyOf({ maxJobs: 6 }));
});

test("many events in one turn are one change, and what did not change is the same object", async () => {
  const socket = serve({ jobs: [status(0, "a"), status(0, "b")] });
  socket.connect();
  const { seen, last, leave } = follow(projectStore(socket, "p"));
  await settle();
  seen.splice(0);
  const { jobs, workflows } = last();
  for (let offset = 1; offset <= 500; offset++) {
    socket.hear("agent_progress", { event: "progress_update", job_id: "a", project_id: "p", progress: offset / 5, attempt: 0, epoch: "e", offset });
  }
  await settle();
  assert.equal(seen.length, 1);
  assert.equal(last().jobs.get("a").progress, 100);
  assert.equal(last().jobs.get("b"), jobs.get("b"));
  assert.equal(last().workflows, workflows);
  leave();
});

test("changes have the time between them that is asked for", async () => {
  const socket = serve();
  socket.connect();
  const { seen, leave } = follow(projectStore(socket, "p", { throttle: 100 }));
  await settle(100);
  seen.splice(0);
  for (let offset = 1; offset <= 10; offset++) {
    socket.hear("agent_status", status(offset, `job-${offset}`));
    await settle(25);
  }
  assert.ok(seen.length >= 2 && seen.length <= 4, String(seen.length));
  await settle(100);
  assert.equal(seen.at(-1).jobs.size, 10);
  leave();
});

test("a new snapshot that says the same changes nothing, and one that says something else changes that alone", async () => {
  const socket = serve({ jobs: [status(0, "a", { stages: [{ name: "x" }] }), status(0, "b")], jobs_total: 2 });
  socket.connect();
  const { seen, last, leave } = follow(projectStore(socket, "p"));
  await settle();
  const { jobs } = last();
  seen.splice(0);
  socket.disconnect();
  await settle();
  socket.answer = { ...socket.answer, offset: 7, jobs: structuredClone(socket.answer.jobs) };
  socket.connect();
  await settle();
  assert.equal(last().status, "subscribed");
  assert.equal(last().jobs, jobs);
  assert.deepEqual(seen.map(({ status }) => status), ["stale", "subscribed"]);
  socket.disconnect();
  socket.answer = { ...socket.answer, offset: 9, jobs: [status(0, "a", { stages: [{ name: "y" }] }), status(0, "b")] };
  socket.connect();
  await settle();
  assert.equal(last().jobs.get("a").stages[0].name, "y");
  assert.equal(last().jobs.get("b"), jobs.get("b"));
  leave();
});

test("what is not enabled, or has no name or no socket yet, is not followed", async () => {
  const socket = serve();
  socket.connect();
  for (const [one, id, options] of [[socket, "p", { enabled: false }], [socket, null], [socket, ""], [socket, undefined]]) {
    const { seen, last } = follow(projectStore(one, id, options));
    await settle();
    assert.deepEqual([last().status, last().jobs.size, seen.length], ["idle", 0, 0]);
  }
  const { last } = follow(projectStore(null, "p"));
  assert.equal(last().status, "subscribing");
  assert.equal(projectStore(null, "p").pending(), null);
  assert.deepEqual(socket.sent, []);
});

test("what is no socket is named", () => {
  assert.throws(() => projectStore(Promise.resolve(), "p"), /createSocket.*not a promise: await it first/);
  assert.throws(() => jobStore("p", "j"), /a job is followed over a socket of socket.io-client.*not \[object String\]/);
});

test("a refusal is a state", async () => {
  const socket = serve({ ok: false, error: { code: "forbidden", message: "no" } });
  socket.connect();
  const { last, leave } = follow(projectStore(socket, "p"));
  await settle();
  assert.deepEqual([last().status, last().error], ["refused", { code: "forbidden", message: "no" }]);
  leave();
});

test("callbacks of all who listen are called, once each, and one that fails stops nobody", async () => {
  const socket = serve();
  socket.connect();
  const heard = [];
  const mistakes = [];
  const listeners = process.listeners("uncaughtException");
  process.removeAllListeners("uncaughtException");
  process.on("uncaughtException", (error) => mistakes.push(error.message));
  const first = projectStore(socket, "p", { onStatus: () => { heard.push("first"); throw new Error("mine"); } });
  const second = projectStore(socket, "p", { onStatus: ({ job_id }) => heard.push(job_id) });
  const leaves = [first.subscribe(() => {}), first.subscribe(() => {}), second.subscribe(() => {})];
  await settle();
  socket.hear("agent_batch", [{ event: "agent_status", data: status(1, "a") }]);
  assert.deepEqual(heard.splice(0), ["first", "a"]);
  first.setCallbacks({ onEvent: (name, data) => heard.push([name, data.text]) });
  socket.hear("agent_status", status(2, "b"));
  socket.hear("line", { text: "hello", _realtime: { project_id: "p", epoch: "e", offset: 3 } });
  assert.deepEqual(heard, ["b", ["line", "hello"]]);
  for (const leave of leaves) leave();
  await settle(1000);
  await new Promise(setImmediate);
  process.removeAllListeners("uncaughtException");
  for (const listener of listeners) process.on("uncaughtException", listener);
  assert.deepEqual(mistakes, ["mine"]);
});

test("a hidden page pauses when it is asked to, and goes on where it was", async () => {
  const shown = page();
  const socket = serve({ jobs: [status(0, "a")], jobs_total: 1 });
  socket.connect();
  const { last, leave } = follow(projectStore(socket, "p", { pauseOnHidden: true }));
  const plain = follow(projectStore(socket, "q"));
  await settle();
  socket.hear("agent_status", status(1, "a", { worker: "w" }));
  await settle();
  const { jobs } = last();
  shown.show("hidden");
  assert.deepEqual([last().status, last().jobs, plain.last().status], ["paused", jobs, "subscribed"]);
  assert.deepEqual(requests(socket, "unsubscribe_project"), [{ project_id: "p" }]);
  socket.answer = { offset: 2, recovered: true, jobs: [status(0, "a", { worker: "w" }), status(0, "b")], events: [{ event: "agent_status", data: status(2, "b") }], jobs_total: 2 };
  socket.sent.splice(0);
  shown.show("visible");
  await settle();
  assert.deepEqual(requests(socket, "subscribe_project"), [{ project_id: "p", batch: true, since: { epoch: "e", offset: 1 } }]);
  assert.deepEqual([last().status, [...last().jobs.keys()]], ["subscribed", ["a", "b"]]);
  leave();
  plain.leave();
  await settle(1000);
  shown.show("hidden");
  shown.show("visible");
  assert.equal(socket.handlers, 0);
  shown.reset();
});

test("while it catches up after a pause, what was there is shown as out of date", async () => {
  const shown = page();
  const socket = serve({ jobs: [status(0, "a")] });
  socket.connect();
  const { last, leave } = follow(projectStore(socket, "p", { pauseOnHidden: true }));
  await settle();
  shown.show("hidden");
  socket.disconnect();
  shown.show("visible");
  await settle();
  assert.deepEqual([last().status, last().jobs.size], ["stale", 1]);
  socket.connect();
  await settle();
  assert.equal(last().status, "subscribed");
  leave();
  shown.reset();
});

test("a page that is opened hidden subscribes when it is seen; without a history none pauses", async () => {
  const shown = page("hidden");
  const socket = serve({ epoch: null, offset: null });
  socket.connect();
  const { last, leave } = follow(projectStore(socket, "p", { pauseOnHidden: true }));
  await settle();
  assert.deepEqual([last().status, socket.sent.length], ["paused", 0]);
  shown.show("visible");
  await settle();
  assert.equal(last().status, "subscribed");
  shown.show("hidden");
  assert.equal(last().status, "subscribed");
  leave();
  shown.reset();
});

test("with closeOnEnd it leaves when all has ended, and keeps what it knows", async () => {
  const socket = serve({ jobs: [status(0, "a", ended), status(0, "b")] });
  socket.connect();
  const { last, leave } = follow(projectStore(socket, "p", { closeOnEnd: true }));
  await settle();
  socket.hear("agent_status", status(1, "b", { status: "error", state: "LOST" })); // it may come back
  await settle();
  assert.equal(last().status, "subscribed");
  socket.hear("agent_status", status(2, "b", ended));
  await settle();
  assert.deepEqual([last().status, last().jobs.get("b").status], ["closed", "success"]);
  assert.deepEqual(asked(socket), ["subscribe_project", "unsubscribe_project"]);
  leave();
});

test("a job that has ended is left when the last of its streams has, too", async () => {
  const socket = serve({ jobs: [status(0, "a")] });
  socket.connect();
  const { last, leave } = follow(jobStore(socket, "a", { closeOnEnd: true, projectId: "p" }));
  await settle();
  assert.deepEqual(requests(socket, "subscribe_job"), [{ job_id: "a", project_id: "p" }]);
  socket.hear("agent_stream", chunk(0, "Good "));
  socket.hear("agent_status", status(1, "a", ended));
  await settle();
  assert.equal(last().status, "subscribed");
  socket.hear("agent_stream", chunk(5, "", { state: "closed" }));
  await settle();
  assert.deepEqual([last().status, last().job.status, last().streams.get("answer").value], ["closed", "success", "Good "]);
  leave();
});

test("a stream's store changes with that stream alone", async () => {
  const socket = serve({ jobs: [status(0, "a")] });
  socket.connect();
  const answer = streamStore(socket, "a", "answer");
  const { seen, last, leave } = follow(answer);
  const rows = follow(streamStore(socket, "a", "rows"));
  await settle();
  assert.deepEqual(requests(socket, "subscribe_job"), [{ job_id: "a" }]);
  const before = last();
  socket.hear("agent_progress", { event: "progress_update", job_id: "a", project_id: "p", progress: 5, attempt: 0, epoch: "e", offset: 1 });
  await settle();
  assert.equal(last(), before);
  socket.hear("agent_stream", chunk(0, "Good "));
  socket.hear("agent_stream", chunk(0, [{ n: 1 }], { stream: "rows", kind: "json" }));
  await settle();
  assert.deepEqual([last().text, last().items, last().stream.state], ["Good ", [], "open"]);
  assert.deepEqual([rows.last().text, rows.last().items], ["", [{ n: 1 }]]);
  assert.equal(seen.at(-1), last());
  leave();
  rows.leave();
});

test("what is selected is the same until that changes", async () => {
  const socket = serve({ jobs: [status(0, "a"), status(0, "b")] });
  socket.connect();
  const store = projectStore(socket, "p");
  const running = selected(store, ({ jobs }) => [...jobs.values()].filter((job) => job.status === "running"));
  const { leave } = follow(running);
  await settle();
  const before = running.getSnapshot();
  socket.hear("agent_status", status(1, "c", { status: "queued", state: "PENDING" }));
  await settle();
  assert.equal(store.getSnapshot().jobs.size, 3);
  assert.equal(running.getSnapshot(), before);
  socket.hear("agent_status", status(2, "b", ended));
  await settle();
  assert.deepEqual(running.getSnapshot().map(({ job_id }) => job_id), ["a"]);
  leave();
});

test("who waits for the first answer opens the subscription, and all wait for the same", async () => {
  const socket = serve();
  const store = projectStore(socket, "p");
  const pending = store.pending();
  assert.equal(projectStore(socket, "p").pending(), pending);
  socket.connect();
  await settle();
  await pending;
  assert.equal(store.pending(), null);
  assert.equal(store.getSnapshot().status, "subscribed");
  await settle(1000);
  assert.deepEqual(asked(socket), ["subscribe_project", "unsubscribe_project"]);
});

test("who waits on a hidden page waits for nothing", async () => {
  const shown = page("hidden");
  const socket = serve();
  socket.connect();
  const store = projectStore(socket, "p", { pauseOnHidden: true });
  assert.equal(store.pending(), null);
  const { leave } = follow(store);
  shown.show("visible");
  await settle();
  assert.equal(store.pending(), null);
  leave();
  shown.reset();
});

test("a closed store tells nobody, and harms no other", async () => {
  const socket = serve();
  socket.connect();
  const store = projectStore(socket, "p");
  const one = follow(store);
  const other = follow(projectStore(socket, "p"));
  await settle();
  store.close();
  one.seen.splice(0);
  socket.hear("agent_status", status(1, "a"));
  await settle();
  assert.deepEqual([one.seen.length, other.last().jobs.size], [0, 1]);
  one.leave();
  other.leave();
});

test("a request to run a job again is answered in any case, and waits for as long as the server does", async () => {
  const socket = new FakeSocket((name, data, acknowledge) => { if (data.job_id === "a") acknowledge({ ok: true, job_id: "b" }); });
  assert.equal((await rerunJob(null, "a")).error.code, "unavailable");
  socket.connect();
  assert.deepEqual(await rerunJob(socket, "a", { projectId: 5 }), { ok: true, job_id: "b" });
  assert.deepEqual(socket.sent, [["rerun_job", { job_id: "a", project_id: "5" }]]);
  let answer;
  const late = rerunJob(socket, "c").then((given) => { answer = given; });
  mock.timers.tick(14000);
  await Promise.resolve();
  assert.equal(answer, undefined);
  mock.timers.tick(1000);
  await late;
  assert.deepEqual(answer.error, { code: "unavailable", message: "the server has not answered" });
});

test("a request to cancel has an answer in any case", async () => {
  const socket = new FakeSocket((name, data, acknowledge) => { if (data.job_id === "a") acknowledge({ ok: true, cancel: "requested" }); });
  assert.deepEqual((await cancelJob(socket, "a")).error, { code: "unavailable", message: "not connected" });
  assert.equal((await cancelJob(null, "a")).ok, false);
  assert.deepEqual(socket.sent, []);
  socket.connect();
  assert.deepEqual(await cancelJob(socket, "a", { projectId: 5 }), { ok: true, cancel: "requested" });
  assert.deepEqual(socket.sent, [["cancel_job", { job_id: "a", project_id: "5" }]]);
  const late = cancelJob(socket, "b");
  mock.timers.tick(5000);
  assert.deepEqual((await late).error, { code: "unavailable", message: "the server has not answered" });
});
