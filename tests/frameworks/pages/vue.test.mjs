// What components of Vue share, without a page: who asks first may leave first.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createRenderer, effectScope, h, isRef, nextTick, reactive, ref } from "vue";
import { realtime, useProject, useSocket } from "celery-realtime/vue";

import { FakeSocket } from "./fake.mjs";

const node = (text) => ({ text, children: [] });
const { createApp } = createRenderer({
  createElement: node, createText: node, createComment: node, setText() {}, patchProp() {},
  setElementText(element, text) { element.text = text; },
  insert(child, parent, before) {
    child.parent = parent;
    const place = parent.children.indexOf(before);
    parent.children.splice(place < 0 ? parent.children.length : place, 0, child);
  },
  remove(child) { child.parent.children.splice(child.parent.children.indexOf(child), 1); },
  parentNode: (child) => child.parent,
  nextSibling: (child) => child.parent.children[child.parent.children.indexOf(child) + 1] ?? null,
});

const settle = async () => {
  await new Promise((resolve) => setTimeout(resolve, 60));
  await nextTick();
};

test("what is made in a scope of its own goes on when the component that has asked for it first is gone", async () => {
  const socket = new FakeSocket((name, { project_id }, acknowledge) =>
    acknowledge?.({ ok: true, project_id, epoch: "e", offset: 0, recovered: false, jobs: [], jobs_total: 0, workflows: [], events: [] }));
  socket.connect();
  const scope = effectScope(true);
  let shared;
  const Count = { setup() {
    shared ??= scope.run(() => useProject("p", { socket, linger: 10 }));
    return () => h("p", String(shared.jobs.value.size));
  } };
  const first = ref(true), second = ref(false);
  const page = node();
  const app = createApp({ setup: () => () => [first.value && h(Count), second.value && h(Count)] });
  app.mount(page);
  second.value = true;
  await settle();
  first.value = false;
  await settle();
  socket.hear("agent_status", { event: "status_change", job_id: "a", project_id: "p", status: "running", state: "STARTED", attempt: 0, epoch: "e", offset: 1 });
  await settle();
  assert.deepEqual(page.children.map(({ text }) => text).filter(Boolean), ["1"]);
  assert.deepEqual(socket.sent.map(([name]) => name), ["subscribe_project"]);
  app.unmount();
  scope.stop();
  await settle();
  assert.deepEqual(socket.sent.map(([name]) => name), ["subscribe_project", "unsubscribe_project"]);
  assert.equal(socket.handlers, 0);
});

test("a filter may be a ref, or reactive, and is asked for anew when it says something else", async () => {
  for (const make of [ref, reactive]) {
    const socket = new FakeSocket((name, { project_id }, acknowledge) =>
      acknowledge?.({ ok: true, project_id, epoch: "e", offset: 0, recovered: false, jobs: [], jobs_total: 0, workflows: [], events: [] }));
    socket.connect();
    const filter = make({ status: ["running"] }), scope = effectScope(true), wanted = isRef(filter) ? filter.value : filter;
    scope.run(() => useProject("p", { socket, filter, linger: 10 }));
    const asked = () => socket.sent.filter(([name]) => name === "subscribe_project").map(([, data]) => data.filter);
    wanted.status = ["running"];
    await settle();
    wanted.status.push("queued");
    await settle();
    assert.deepEqual(asked(), [{ status: ["running"] }, { status: ["running", "queued"] }]);
    scope.stop();
    await settle();
    assert.equal(socket.handlers, 0);
  }
});

test("what a component follows ends with it", async () => {
  const socket = new FakeSocket();
  socket.connect();
  const app = createApp({ setup() {
    const { status } = useProject("p", { socket, linger: 10 });
    return () => h("p", status.value);
  } });
  app.mount(node());
  await settle();
  assert.deepEqual(socket.sent.map(([name]) => name), ["subscribe_project"]);
  app.unmount();
  await settle();
  assert.equal(socket.handlers, 0);
});

test("the plugin closes the socket that it has made when the app is gone, and no other", async () => {
  globalThis.window = globalThis;
  const made = new FakeSocket(), given = new FakeSocket();
  given.connect();
  for (const [options, socket, isOpen] of [[{ io: () => made }, made, false], [{ socket: given }, given, true]]) {
    let used;
    const app = createApp({ setup() {
      used = useSocket();
      return () => h("p");
    } });
    app.use(realtime, options).mount(node());
    assert.deepEqual([used.value, socket.connected], [socket, true]);
    app.unmount();
    assert.equal(socket.connected, isOpen);
  }
  delete globalThis.window;
});
