// A subscription leaves and comes back as its options say: of a project and of a job, over the index and the modules alone.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { subscribeJob, subscribeProject } from "../../celery_realtime/static/index.js";
import { subscribeProject as subscribeAlone } from "../../celery_realtime/static/celery-realtime.js";
import { FakeSocket } from "./fake.mjs";

const ANSWER = { ok: true, project_id: "p", epoch: "e", offset: 0, recovered: false, jobs: [], workflows: [], events: [], streams: [] };
const status = (offset, job_id, more) => ({
  event: "status_change", job_id, project_id: "p", status: "running", state: "STARTED", error: null, attempt: 0,
  epoch: "e", offset, ...more,
});
const success = { status: "success", state: "SUCCESS" };
// Of each function what it subscribes to, and what it asks for.
const WAYS = {
  "a project": [subscribeProject, "p", "_project", { project_id: "p", batch: true }],
  "a project, without the index": [subscribeAlone, "p", "_project", { project_id: "p", batch: true }],
  "a job": [subscribeJob, "a", "_job", { job_id: "a" }],
};

let page;
beforeEach(() => {
  page = globalThis.document = new EventTarget();
  page.visibilityState = "visible";
});
afterEach(() => { delete globalThis.document; });

function show(visibilityState) {
  page.visibilityState = visibilityState;
  page.dispatchEvent(new Event("visibilitychange"));
}

// Until a module has been loaded, and what comes of it is done.
async function until(condition) {
  for (const end = Date.now() + 60_000; !condition() && Date.now() < end; ) await new Promise((later) => setTimeout(later, 1));
  assert.ok(condition());
}

function serve(answer = {}) {
  const socket = new FakeSocket((name, data, acknowledge) => acknowledge?.({ ...ANSWER, ...socket.answer }));
  socket.answer = answer;
  socket.connect();
  return socket;
}

for (const [what, [follow, id, kind, request]] of Object.entries(WAYS)) {
  const asked = (socket) => socket.sent.splice(0).map(([name, data]) => [name.replace(kind, ""), data]);
  const since = kind === "_project" ? { since: { epoch: "e", offset: 0 } } : {};

  test(`${what}: what is not enabled asks for nothing until it is, and nothing again afterwards`, async () => {
    const socket = serve({ jobs: [status(0, "a")] });
    const states = [];
    const one = follow(socket, id, { enabled: false, onChange: ({ state }) => states.push(state) });
    await until(() => one.state === "idle");
    assert.deepEqual([socket.sent, socket.handlers], [[], 0]);
    one.update({ enabled: true });
    await until(() => one.state === "subscribed");
    assert.deepEqual(asked(socket), [["subscribe", request]]);
    one.update({ enabled: false });
    await until(() => one.state === "idle");
    socket.hear("agent_status", status(1, "a", success));
    socket.disconnect();
    socket.connect();
    show("hidden");
    show("visible");
    assert.equal(asked(socket)[0][0], "unsubscribe");
    assert.deepEqual([socket.sent, socket.handlers, one.state], [[], 0, "idle"]);
    assert.equal((one.jobs?.get("a") ?? one.job).status, "running"); // as it was
    one.update({ enabled: true });
    await until(() => one.state === "subscribed");
    assert.deepEqual(asked(socket), [["subscribe", { ...request, ...since }]]);
    assert.deepEqual(states.slice(-3), ["idle", "stale", "subscribed"]);
    one.close();
    one.update({ enabled: false });
    one.update({ enabled: true });
    await new Promise((later) => setTimeout(later));
    assert.deepEqual([asked(socket).length, socket.handlers], [1, 0]);
  });

  test(`${what}: a hidden page leaves when it is asked to, and catches up`, async () => {
    const socket = serve({ jobs: [status(0, "a")] });
    show("hidden");
    const one = follow(socket, id, { pauseOnHidden: true });
    await until(() => one.state === "paused");
    assert.deepEqual(socket.sent, []);
    show("visible");
    await until(() => one.state === "subscribed");
    show("hidden");
    assert.equal(one.state, "paused");
    show("visible");
    assert.equal(one.state, "subscribed");
    assert.deepEqual(asked(socket).map(([name]) => name), ["subscribe", "unsubscribe", "subscribe"]);
    one.update({ pauseOnHidden: false });
    await new Promise((later) => setTimeout(later));
    show("hidden");
    assert.equal(one.state, "subscribed");
    one.update({ pauseOnHidden: true });
    await until(() => one.state === "paused");
    one.close();
    show("visible");
    assert.deepEqual(asked(socket).map(([name]) => name), ["unsubscribe"]);
  });

  test(`${what}: without a history nothing pauses`, async () => {
    const socket = serve({ epoch: null, offset: null, live_only: true });
    const one = follow(socket, id, { pauseOnHidden: true });
    await until(() => one.state === "subscribed");
    show("hidden");
    assert.equal(one.state, "subscribed");
    one.close();
  });

  test(`${what}: it leaves when all has ended for good, and looks again when it is enabled again`, async () => {
    const socket = serve({ jobs: [status(0, "a")] });
    const one = follow(socket, id, { closeOnEnd: true });
    await until(() => one.state === "subscribed");
    socket.hear("agent_status", status(1, "a", { status: "error", state: "LOST" })); // it may come back
    await new Promise((later) => setTimeout(later));
    assert.equal(one.state, "subscribed");
    socket.hear("agent_status", status(2, "a", success));
    await until(() => one.state === "closed");
    assert.equal((one.jobs?.get("a") ?? one.job).status, "success");
    assert.deepEqual(asked(socket).map(([name]) => name), ["subscribe", "unsubscribe"]);
    show("hidden");
    show("visible");
    assert.deepEqual([one.state, asked(socket)], ["closed", []]);
    one.update({ enabled: false });
    one.update({ enabled: true });
    await until(() => one.state === "subscribed");
    one.close();
    assert.equal(socket.handlers, 0);
  });

  test(`${what}: one that is closed before it has begun never begins`, async () => {
    const socket = serve();
    const one = follow(socket, id, { enabled: true, pauseOnHidden: true });
    one.close();
    asked(socket);
    await new Promise((later) => setTimeout(later, 20));
    show("hidden");
    show("visible");
    assert.deepEqual([socket.sent, socket.handlers], [[], 0]);
  });
}

test("a job whose streams go on is not left", async () => {
  const socket = serve({ jobs: [status(0, "a")] });
  const job = subscribeJob(socket, "a", { closeOnEnd: true });
  const chunk = { job_id: "a", project_id: "p", stream: "answer", kind: "text", attempt: 0, generation: 1 };
  socket.hear("agent_stream", { ...chunk, position: 0, chunk: "Good", state: "open" });
  socket.hear("agent_status", status(1, "a", success));
  await new Promise((later) => setTimeout(later));
  assert.equal(job.state, "subscribed");
  socket.hear("agent_stream", { ...chunk, position: 4, chunk: "", state: "closed" });
  await until(() => job.state === "closed");
});

test("who has it before it is subscribed is called back by nothing that it does not have yet", () => {
  const calls = [];
  show("hidden");
  const project = subscribeProject(serve(), "p", { pauseOnHidden: true, onChange: () => calls.push(project.state) });
  assert.deepEqual([project.state, calls], ["paused", []]);
  show("visible");
  assert.deepEqual(calls.at(-1), "subscribed");
  project.close();
});

test("another subscription of the same socket goes on while one is away", () => {
  const socket = serve({ jobs: [status(0, "a")] });
  const one = subscribeProject(socket, "p", { pauseOnHidden: true }), other = subscribeProject(socket, "p");
  socket.sent.splice(0);
  show("hidden");
  socket.hear("agent_status", status(1, "a", success));
  assert.deepEqual([one.state, one.jobs.get("a").status, other.jobs.get("a").status], ["paused", "running", "success"]);
  assert.deepEqual(socket.sent, []);
  socket.answer = { offset: 1, recovered: true, events: [{ event: "agent_status", data: status(1, "a", success) }] };
  show("visible");
  assert.deepEqual([one.state, one.jobs.get("a").status], ["subscribed", "success"]);
  one.close();
  other.close();
});
