// Where socket.io-client is not installed, the page says so. Nothing of it is found from the folder of the modules.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createSocket, subscribeProject } from "../../celery_realtime/static/index.js";

test("without socket.io-client, the error names it, and subscriptions show it", async () => {
  const listeners = process.listeners("unhandledRejection");
  process.removeAllListeners("unhandledRejection");
  const reported = new Promise((resolve) => process.once("unhandledRejection", resolve));
  const socket = createSocket("https://example.org", { token: "t" });
  const project = subscribeProject(socket, "p");
  const { message } = await reported;
  for (const listener of listeners) process.on("unhandledRejection", listener);
  assert.match(message, /npm install socket\.io-client.*import map.*pass \{ io \}/);
  assert.deepEqual([project.state, project.error], ["stale", { code: "unavailable", message }]);
  const late = subscribeProject(socket, "q");
  await Promise.resolve();
  assert.deepEqual([late.state, late.error?.code], ["stale", "unavailable"]);
  for (const one of [project, late]) one.close();
});
