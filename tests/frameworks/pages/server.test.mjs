// On a server nothing is followed, and what is rendered is what a browser renders first.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createElement as h, StrictMode, version } from "react";
import { renderToString } from "react-dom/server";
import { RealtimeProvider, useCancel, useJob, useProject, useStream } from "celery-realtime/react";

// Says what is done with it.
function watched() {
  const calls = [];
  const methods = ["on", "off", "onAny", "offAny", "emit"].map((name) => [name, (...args) => { calls.push([name, ...args]); }]);
  return { socket: { connected: false, ...Object.fromEntries(methods) }, calls };
}

function React() {
  const { status, jobs } = useProject("apollo", { suspense: true });
  const count = useProject("apollo", { select: (snapshot) => snapshot.jobs.size });
  const { job } = useJob(null);
  const { text } = useStream("j", "answer");
  useCancel();
  return h("p", null, `${status} ${jobs.size} ${count} ${job} "${text}"`);
}

for (const props of [{ socket: watched() }, { socket: { socket: null } }, {}]) {
  test(`React ${version} renders ${JSON.stringify(Object.keys(props.socket ?? { url: 1 }))}`, () => {
    const given = props.socket ? { socket: props.socket.socket } : { url: "http://127.0.0.1:1", token: () => assert.fail() };
    const page = renderToString(h(StrictMode, null, h(RealtimeProvider, given, h(React))));
    assert.equal(page, "<p>subscribing 0 0 null &quot;&quot;</p>");
    assert.deepEqual(props.socket?.calls ?? [], []);
  });
}

test("without a provider, it says what is missing", () => {
  assert.throws(() => renderToString(h(React)), /put <RealtimeProvider> around/);
});

test("Vue renders", async () => {
  const { createSSRApp, h } = await import("vue");
  const { renderToString } = await import("vue/server-renderer");
  const { realtime, useCancel, useProject, useStream } = await import("celery-realtime/vue");
  const { socket, calls } = watched();
  const Page = {
    setup() {
      const { status, jobs } = useProject("apollo");
      const { text } = useStream("j", "answer");
      useCancel();
      return () => h("p", `${status.value} ${jobs.value.size} "${text.value}"`);
    },
  };
  assert.equal(await renderToString(createSSRApp(Page).use(realtime, { socket })), '<p>subscribing 0 &quot;&quot;</p>');
  assert.equal(await renderToString(createSSRApp(Page).use(realtime, { url: "http://127.0.0.1:1" })), '<p>subscribing 0 &quot;&quot;</p>');
  await assert.rejects(renderToString(createSSRApp(Page)), /app.use\(realtime/);
  assert.deepEqual(calls, []);
});

test("Svelte renders", async () => {
  const { compile } = await import("svelte/compiler");
  const { render } = await import("svelte/server");
  const source = `<script>
    import { project } from "celery-realtime/svelte";
    let { socket } = $props();
    const shown = $derived(project(socket, "apollo"));
  </script><p>{shown.status} {$shown.jobs.size}</p>`;
  const { js } = compile(source, { generate: "server" });
  const { writeFileSync } = await import("node:fs");
  const file = new URL("./compiled-page.mjs", import.meta.url);
  writeFileSync(file, js.code);
  const { default: Page } = await import(file);
  assert.match(render(Page, { props: { socket: null } }).body, /<p>subscribing 0<\/p>/);
});

test("Solid renders", async () => {
  const { createProject } = await import("celery-realtime/solid");
  const { renderToString } = await import("solid-js/web");
  const { socket, calls } = watched();
  const page = renderToString(() => {
    const shown = createProject(socket, () => "apollo");
    return `${shown.status} ${shown.jobs.size}`;
  });
  assert.equal(page, "subscribing 0");
  assert.deepEqual(calls, []);
});
