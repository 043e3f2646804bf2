// The recipe for React in docs/react.md, compiled and rendered as it stands there.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { mock, test } from "node:test";

import React from "react";
import { act, create } from "react-test-renderer";
import ts from "typescript";

import { subscribeProject } from "../../celery_realtime/static/celery-realtime.js";
import { FakeSocket } from "./fake.mjs";

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
mock.method(console, "error", (message, ...more) => {
  if (!String(message).includes("react-test-renderer is deprecated")) throw new Error([message, ...more].join(" "));
});

function recipe() {
  const page = readFileSync(new URL("../../docs/react.md", import.meta.url), "utf8");
  const [, source] = page.match(/```jsx\n(.*?)```/s);
  const options = { module: ts.ModuleKind.CommonJS, jsx: ts.JsxEmit.React, target: ts.ScriptTarget.ES2022 };
  const { outputText } = ts.transpileModule(source, { compilerOptions: options });
  const require = createRequire(import.meta.url);
  const load = (name) => name === "./celery-realtime.js" ? { subscribeProject } : require(name);
  return new Function("require", "exports", "React", `${outputText}; return Jobs;`)(load, {}, React);
}

const Jobs = recipe();
const EMPTY = { epoch: "e", offset: 0, recovered: false, jobs: [], jobs_total: 0, workflows: [], events: [] };
const status = (offset, job_id, more) => ({
  event: "status_change", job_id, project_id: "p", task: "t", status: "running", state: "STARTED", result: null,
  error: null, attempt: 0, root_id: job_id, epoch: "e", offset, timestamp: "2024-01-15T10:30:00.000Z", ...more,
});

function open(projectId = "p", wrap = (element) => element) {
  const socket = new FakeSocket((name, data, acknowledge) => {
    acknowledge?.({ ok: true, project_id: data.project_id, ...EMPTY });
  });
  let page;
  act(() => { page = create(wrap(React.createElement(Jobs, { socket, projectId }))); });
  return { socket, page, list: () => page.root.findByType("ul"), lines: () => page.root.findAllByType("li").map((li) => li.children.join("")) };
}

test("a page shows the state of its jobs, and when it is out of date", () => {
  const { socket, list, lines, page } = open();
  assert.equal(list().props["aria-busy"], true);
  act(() => socket.connect());
  assert.equal(list().props["aria-busy"], false);
  act(() => socket.hear("agent_status", status(1, "a")));
  act(() => socket.hear("agent_progress", { event: "progress_update", job_id: "a", project_id: "p", progress: 40, message: null, current: null, total: null, attempt: 0, epoch: "e", offset: 2 }));
  assert.deepEqual(lines(), ["t: running 40 %"]);
  act(() => socket.disconnect());
  assert.equal(list().props["aria-busy"], true);
  act(() => page.unmount());
  assert.equal(socket.handlers, 0);
});

test("many events in one turn cost one rendering, and no event", () => {
  const { socket, lines, page } = open();
  act(() => socket.connect());
  act(() => { for (let offset = 1; offset <= 500; offset++) socket.hear("agent_status", status(offset, `job-${offset}`)); });
  assert.equal(lines().length, 500);
  act(() => page.unmount());
});

test("strict mode, which opens twice and closes once, leaves one subscription", () => {
  const { socket, lines, page } = open("p", (element) => React.createElement(React.StrictMode, null, element));
  act(() => socket.connect());
  act(() => socket.hear("agent_status", status(1, "a", { status: "success", state: "SUCCESS" })));
  assert.deepEqual(lines(), ["t: success 0 %"]);
  act(() => page.unmount());
  assert.equal(socket.handlers, 0);
});

test("another project takes the place of the first", () => {
  const { socket, lines, page } = open("q");
  act(() => socket.connect());
  act(() => page.update(React.createElement(Jobs, { socket, projectId: "p" })));
  act(() => socket.hear("agent_status", status(1, "a")));
  assert.deepEqual(lines(), ["t: running 0 %"]);
  assert.deepEqual(socket.sent.map(([name, data]) => [name, data.project_id]), [
    ["subscribe_project", "q"], ["unsubscribe_project", "q"], ["subscribe_project", "p"],
  ]);
  act(() => page.unmount());
});
