// The hooks of React over a socket without a network: what is rendered, how often, and what is asked for.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, mock, test } from "node:test";

import * as React from "react";
import { act, create } from "react-test-renderer";
import ts from "typescript";
import * as hooks from "celery-realtime/react";

import { FakeSocket } from "./fake.mjs";

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
mock.method(console, "error", (message, ...more) => {
  if (!String(message).includes("react-test-renderer is deprecated")) throw new Error([message, ...more].join(" "));
});

const { createElement: h, memo, StrictMode, Suspense } = React;
const { RealtimeProvider, useCancel, useJob, useProject, useRerun, useStream } = hooks;
const ANSWER = { ok: true, epoch: "e", offset: 0, recovered: false, jobs: [], jobs_total: 0, workflows: [], events: [], streams: [] };
const status = (offset, job_id, more) => ({
  event: "status_change", job_id, project_id: "p", task: "t", status: "running", state: "STARTED", result: null,
  error: null, attempt: 0, root_id: job_id, epoch: "e", offset, timestamp: "2024-01-15T10:30:00.000Z", ...more,
});
const chunk = (position, text) => ({
  event: "stream_chunk", job_id: "a", project_id: "p", stream: "answer", kind: "text", attempt: 0, generation: 1,
  position, chunk: text, state: "open",
});

function serve(answer) {
  const socket = new FakeSocket((name, data, acknowledge) => acknowledge?.({ ...ANSWER, project_id: data.project_id ?? "p", ...socket.answer }));
  socket.answer = answer;
  return socket;
}

const asked = (socket) => socket.sent.map(([name, { project_id, job_id }]) => `${name} ${job_id ?? project_id}`);
const settle = (milliseconds = 25) => act(() => new Promise((resolve) => setTimeout(resolve, milliseconds)));

const opened = new Set();
after(() => act(async () => { for (const page of opened) page.unmount(); })); // those of tests that have failed

// Render it with the socket.
async function open(element, { socket = serve(), strict = false, connected = true } = {}) {
  if (connected) socket.connect();
  const wrap = (inner) => {
    const page = h(RealtimeProvider, { socket }, inner);
    return strict ? h(StrictMode, null, page) : page;
  };
  let page;
  await act(async () => { page = create(wrap(element)); });
  opened.add(page);
  await settle();
  return {
    socket, page,
    texts: (type) => page.root.findAllByType(type).map((one) => one.children.join("")),
    update: async (next) => { await act(async () => page.update(wrap(next))); await settle(); },
    close: async () => { opened.delete(page); await act(async () => page.unmount()); await settle(100); },
  };
}

const counts = {};
const counted = (name) => { counts[name] = (counts[name] ?? 0) + 1; };
const Row = memo(({ job }) => { counted(job.job_id); return h("li", null, `${job.status} ${job.progress}`); });
const SHORT = { linger: 50 };

function List({ id = "p", options }) {
  const { jobs, status } = useProject(id, { ...SHORT, ...options });
  counted("list");
  return h("ul", { status }, [...jobs.values()].map((job) => h(Row, { key: job.job_id, job })));
}

test("twenty components in strict mode cost one subscription, and leave nothing behind", async () => {
  const { socket, texts, close } = await open(Array.from({ length: 20 }, (_, key) => h(List, { key })), { strict: true });
  socket.hear("agent_status", status(1, "a"));
  await settle();
  assert.equal(texts("li").length, 20);
  await close();
  assert.deepEqual(asked(socket), ["subscribe_project p", "unsubscribe_project p"]);
  assert.equal(socket.handlers, 0);
});

test("a filter that is written in the component is asked for once, and anew when it says something else", async () => {
  const filtered = (status, more) => h(List, { options: { filter: { status: [status], task: undefined }, ...more } });
  const { socket, update, close } = await open(filtered("running"), { strict: true });
  for (let time = 0; time < 3; time++) await update(filtered("running", { onStatus() {} }));
  socket.hear("agent_status", status(1, "a"));
  await settle();
  assert.deepEqual(asked(socket), ["subscribe_project p"]);
  await update(filtered("queued"));
  await settle(60);
  const requests = socket.sent.filter(([name]) => name === "subscribe_project");
  assert.deepEqual(requests.map(([, { filter }]) => filter), [{ status: ["running"] }, { status: ["queued"] }]);
  await close();
  assert.equal(socket.handlers, 0);
});

test("nothing is rendered without a change, and no row that did not change", async () => {
  const { socket, update, close } = await open(h(List), { socket: serve({ jobs: [status(0, "one"), status(0, "two")], jobs_total: 2 }) });
  const { list } = counts;
  assert.deepEqual([counts.one, counts.two], [1, 1]);
  await settle(60);
  socket.hear("agent_resync", { project_id: "p" }); // the same snapshot again
  await settle(60);
  assert.equal(counts.list, list);
  for (let offset = 1; offset <= 500; offset++) socket.hear("agent_progress", { event: "progress_update", job_id: "one", project_id: "p", progress: offset / 5, attempt: 0, epoch: "e", offset });
  await settle();
  assert.deepEqual([counts.list, counts.one, counts.two], [list + 1, 2, 1]);
  await update(h(List, { options: { onEvent: () => {}, enabled: true } }));
  assert.deepEqual([counts.list, counts.one, counts.two], [list + 2, 2, 1]);
  assert.deepEqual(asked(socket), ["subscribe_project p", "subscribe_project p"]);
  socket.disconnect();
  await settle();
  socket.answer = { offset: 900, jobs: [status(0, "one", { progress: 100, message: null, current: null, total: null, stalled: false }), status(0, "two")], jobs_total: 2 };
  socket.connect();
  await settle(60);
  assert.equal(counts.two, 1);
  await close();
});

test("a selection is rendered when it changes", async () => {
  let renders = 0;
  function Running() {
    const running = useProject("p", { ...SHORT, select: ({ jobs }) => [...jobs.values()].filter((job) => job.status === "running") });
    renders++;
    return h("p", null, String(running.length));
  }
  const { socket, texts, close } = await open(h(Running));
  const before = renders;
  socket.hear("agent_status", status(1, "a", { status: "queued", state: "PENDING" }));
  await settle();
  assert.equal(renders, before);
  socket.hear("agent_status", status(2, "a"));
  await settle();
  assert.deepEqual([renders, texts("p")], [before + 1, ["1"]]);
  await close();
});

test("what a selection returns stays the same object while it says the same, however often it is rendered", async () => {
  const seen = new Set();
  function Running({ id, at }) {
    const ids = useProject(id, { ...SHORT, select: ({ jobs }) => [...jobs.keys()] });
    React.useEffect(() => { seen.add(ids); });
    return h("p", null, at);
  }
  const { socket, update, close } = await open(h(Running, { id: "p", at: 0 }), { socket: serve({ jobs: [status(0, "a")] }), strict: true });
  const before = seen.size;
  for (const at of [1, 2, 3]) await update(h(Running, { id: "p", at }));
  assert.equal(seen.size, before);
  socket.hear("agent_status", status(1, "b"));
  await settle();
  assert.equal(seen.size, before + 1);
  await close();
});

test("another project takes the place of the first, whose late answer harms nobody", async () => {
  const late = [];
  const socket = new FakeSocket((name, data, acknowledge) => late.push([data.project_id, acknowledge]));
  const { page, update, close } = await open(h(List, { id: "q" }), { socket });
  await update(h(List, { id: "p" }));
  for (const [project_id, acknowledge] of late) acknowledge?.({ ...ANSWER, project_id, jobs: [status(0, project_id)] });
  await settle();
  assert.equal(page.root.findByType("ul").props.status, "subscribed");
  assert.equal(page.root.findAllByType("li").length, 1);
  await settle(80);
  assert.deepEqual(asked(socket), ["subscribe_project q", "subscribe_project p", "unsubscribe_project q"]);
  await close();
});

test("unmounting in flight is harmless", async () => {
  let answer;
  const socket = new FakeSocket((name, _, acknowledge) => { if (name === "subscribe_project") answer = acknowledge; });
  const { close } = await open(h(List), { socket });
  await close();
  answer(ANSWER);
  await settle();
  assert.equal(socket.handlers, 0);
});

test("what is not enabled is idle, and keeps nobody waiting", async () => {
  const { socket, page, update, close } = await open(h(List, { options: { enabled: false, suspense: true } }));
  assert.equal(page.root.findByType("ul").props.status, "idle");
  assert.deepEqual(socket.sent, []);
  await update(h(List, { options: { enabled: true } }));
  assert.equal(page.root.findByType("ul").props.status, "subscribed");
  await update(h(List, { id: null }));
  assert.equal(page.root.findByType("ul").props.status, "idle");
  await close();
});

test("the newest callback is called, and none after the component has gone", async () => {
  const heard = [];
  const say = (offset) => socket.hear("step", { n: offset, _realtime: { project_id: "p", epoch: "e", offset } });
  const of = (name) => h(List, { options: { onEvent: (_, { n }) => heard.push([name, n]) } });
  const { socket, update, close } = await open(of("first"), { strict: true });
  say(1);
  await update(of("second"));
  say(2);
  assert.deepEqual(heard, [["first", 1], ["second", 2]]);
  await close();
  say(3);
  assert.equal(heard.length, 2);
});

test("with suspense, a component waits for the first answer, once", async () => {
  globalThis.window = globalThis;
  const socket = serve({ jobs: [status(0, "a")] });
  const waiting = h(Suspense, { fallback: h("b", null, "waiting") }, h(List, { options: { suspense: true } }));
  const { texts, close } = await open(waiting, { socket, strict: true, connected: false });
  assert.deepEqual([texts("b"), texts("li")], [["waiting"], []]);
  await act(async () => socket.connect());
  await settle(60);
  assert.deepEqual([texts("b"), texts("li").length], [[], 1]);
  assert.deepEqual(asked(socket), ["subscribe_project p"]);
  await close();
  delete globalThis.window;
});

test("a refusal is a state, also with suspense", async () => {
  globalThis.window = globalThis;
  const socket = serve({ ok: false, error: { code: "forbidden", message: "no" } });
  function Page() {
    const { status, error } = useProject("p", { ...SHORT, suspense: true });
    return h("p", null, `${status} ${error.code}`);
  }
  const { texts, close } = await open(h(Suspense, null, h(Page)), { socket });
  assert.deepEqual(texts("p"), ["refused forbidden"]);
  await close();
  delete globalThis.window;
});

test("a job, its stream and its end; leaving cancels nothing, and cancelling is answered", async () => {
  let cancel, rerun;
  let renders = 0;
  function Text() {
    renders++;
    const { text, stream } = useStream("a", "answer", SHORT);
    return h("p", null, `${text} ${stream?.state}`);
  }
  function Page() {
    const { job } = useJob("a", SHORT);
    cancel = useCancel();
    rerun = useRerun();
    return h("i", null, job?.status);
  }
  const { socket, texts, close } = await open([h(Page, { key: 1 }), h(Text, { key: 2 })], { socket: serve({ jobs: [status(0, "a")] }) });
  const before = renders;
  socket.hear("agent_progress", { event: "progress_update", job_id: "a", project_id: "p", progress: 5, attempt: 0, epoch: "e", offset: 1 });
  await settle();
  assert.equal(renders, before);
  socket.hear("agent_stream", chunk(0, "Good "));
  socket.hear("agent_stream", chunk(5, "day"));
  await settle();
  assert.deepEqual([renders, texts("p"), texts("i")], [before + 1, ["Good day open"], ["running"]]);
  socket.answer = { cancel: "requested" };
  assert.equal((await cancel("a")).cancel, "requested");
  socket.answer = { job_id: "b", rerun_of: "a" };
  assert.equal((await rerun("a")).job_id, "b");
  await close();
  assert.deepEqual(asked(socket), ["subscribe_job a", "cancel_job a", "rerun_job a", "unsubscribe_job a"]);
});

test("the provider makes a socket, calls the newest token factory, and closes the socket when it goes", async () => {
  const sockets = [];
  const io = (url) => { const socket = Object.assign(serve(), { url, io: {}, disconnect() { this.closed = true; } }); sockets.push(socket); return socket; };
  const page = (token) => h(RealtimeProvider, { url: "https://example.org", token, options: { io } }, h(List));
  let root;
  await act(async () => { root = create(page(() => "first")); });
  await act(async () => root.update(page(async () => "second")));
  await settle();
  assert.equal(sockets.length, 1);
  assert.deepEqual(await new Promise(sockets[0].auth), { token: "second" });
  assert.deepEqual(asked(sockets[0]), ["subscribe_project p"]);
  await act(async () => root.unmount());
  await settle(100);
  assert.equal(sockets[0].closed, true);
});

test("the provider keeps its socket while it is for the same place, and makes another where there is a token now", async () => {
  const sockets = [];
  const io = () => { const socket = Object.assign(serve(), { io: {}, disconnect() { this.closed = true; } }); sockets.push(socket); return socket; };
  const page = (token) => h(RealtimeProvider, { url: new URL("https://example.org"), token, options: { io } });
  let root;
  await act(async () => { root = create(page(undefined)); });
  await act(async () => root.update(page(undefined)));
  assert.equal(sockets.length, 1);
  await act(async () => root.update(page(() => "now")));
  assert.deepEqual([sockets.length, sockets[0].closed], [2, true]);
  assert.deepEqual(await new Promise(sockets[1].auth), { token: "now" });
  await act(async () => root.update(page(() => "then")));
  assert.equal(sockets.length, 2);
  await act(async () => root.unmount());
  assert.equal(sockets[1].closed, true);
});

test("the page about React does what it says", async () => {
  const page = readFileSync(process.env.PAGE_ABOUT_REACT, "utf8");
  const [, source] = page.match(/```jsx\n(.*?)```/s);
  const options = { module: ts.ModuleKind.CommonJS, jsx: ts.JsxEmit.React, target: ts.ScriptTarget.ES2022 };
  const { outputText } = ts.transpileModule(source, { compilerOptions: options });
  const require = createRequire(import.meta.url);
  const load = (name) => (name === "celery-realtime/react" ? hooks : require(name));
  const { Jobs, Answer } = new Function("require", "React", `const exports = {}; ${outputText}; return exports;`)(load, React);
  const { socket, texts, page: shown, close } = await open([h(Jobs, { key: 1, projectId: "p" }), h(Answer, { key: 2, jobId: "a" })]);
  socket.hear("agent_status", status(1, "a"));
  socket.hear("agent_stream", chunk(0, "Good day"));
  await settle();
  assert.deepEqual([texts("p"), shown.root.findByType("ul").props["aria-busy"]], [["Good day"], false]);
  assert.match(texts("li")[0], /^t: running 0 %/);
  await act(async () => shown.root.findByType("button").props.onClick());
  assert.ok(asked(socket).includes("cancel_job a"));
  await close();
});
